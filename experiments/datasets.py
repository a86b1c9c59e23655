"""Download data sets: `fanin data fetch cifar10`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from experiments.console import exit_on_error
from experiments.data_root import data_folder, default_root
from fanin.errors import suggest
from fanin.parser import CommandParser

DATASETS = ("mnist", "fashion_mnist", "cifar10", "cifar100")  # options of conf/data/ with files


def main(argv: Sequence[str] | None = None) -> None:
    """Download data sets."""
    args = _parser().parse_args(argv)
    with exit_on_error(
        interrupted="Interrupted. Run the same command again to download the missing files."
    ):
        for name in args.names:
            fetch(name, args.root)


def fetch(name: str, root: str) -> None:
    """Find or download the files of a data set, verify them, and print how to use them.

    Raises
    ------
    DataError
        A file is damaged, cannot be downloaded, or cannot be written.
    """
    # Imported here because it loads torch, which takes seconds.
    from experiments.data import Cifar10, Cifar100, FashionMnist, Mnist, Source
    from experiments.data.fetch import log

    sources: tuple[Source, ...] = (Mnist(), FashionMnist(), Cifar10(), Cifar100())
    _log_downloads(log)
    folder = data_folder(root)
    dict(zip(DATASETS, sources, strict=True))[name].prepare(folder, download=True)
    option = "" if folder == data_folder(None) else f" data.root={folder}"
    print(f"{name}: all files are in {folder}/ and verified. Use them with: data={name}{option}")


def _log_downloads(logger: logging.Logger) -> None:
    """Print a line on stderr for each download, because it may take minutes."""
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)


def _parser() -> CommandParser:
    parser = CommandParser(
        "data",
        description="Download data sets and verify their SHA-256 sums. Existing files are "
        "verified, not downloaded again.",
        epilog="Run this on a host with internet access, such as a login node. Jobs on compute "
        "nodes read the files from the same folder, and never download.",
    )
    parser.add_argument("action", choices=("fetch",), help="download what is missing")
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="+",
        type=_dataset,
        choices=DATASETS,
        help=", ".join(DATASETS),
    )
    parser.add_argument(
        "--root",
        default=default_root(),
        metavar="FOLDER",
        help="folder for the files, on a file system that the compute nodes share; pass it to "
        "other commands as data.root=FOLDER (default: the environment variable FANIN_DATA, now "
        "%(default)s)",
    )
    return parser


def _dataset(name: str) -> str:
    if name not in DATASETS:  # unlike argparse's message, this one names the nearest choice
        raise argparse.ArgumentTypeError(f"{name}: no such data set; {suggest(name, DATASETS)}")
    return name


if __name__ == "__main__":
    main()
