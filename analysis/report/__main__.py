"""One page about a sweep: `python -m analysis.report NAME`; an index of all: `--all`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from analysis.cli import add_sweep_arguments, prediction_progress
from analysis.report.page import Theory, write_index, write_report
from experiments.console import exit_on_error


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page, and say where it is."""
    parser = _parser()
    asked = parser.parse_args(argv)
    if (asked.name is None) != asked.all:
        parser.error("say a sweep's name, or --all")
    with exit_on_error():
        if asked.all:
            page = write_index(Path(asked.results))
        else:
            with prediction_progress() as on_predicted:
                theory = Theory(asked.theory, asked.workers, on_predicted)
                page = write_report(asked.name, asked.results, theory)
    print(page)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="A sweep as one HTML page, which needs no network; its path is printed.",
    )
    add_sweep_arguments(parser, nargs="?")
    parser.add_argument(
        "--all", action="store_true", help="instead: a page that lists all sweeps in results/"
    )
    parser.add_argument(
        "--no-theory", dest="theory", action="store_false", help="leave out the theory check"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that predict; default: %(default)s"
    )
    return parser


if __name__ == "__main__":
    main()
