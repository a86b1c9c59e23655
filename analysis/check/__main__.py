"""Check a sweep against theory, layer by layer: `fanin check NAME`.

The exit status is 1 if some layer disagrees with the highest theory that predicts it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from analysis.cli import (
    add_sweep_arguments,
    add_trust_argument,
    add_workers_argument,
    parse_number,
    parse_probability,
    plain_console,
)
from analysis.folder import sweep_folder
from analysis.load import load
from experiments.console import exit_on_error
from fanin.parser import CommandParser

EXIT_DISAGREES = 1


def main(argv: Sequence[str] | None = None) -> None:
    """Print the summary of a sweep, and with `--tables` a table for every setting."""
    args = _parser().parse_args(argv)
    with exit_on_error(OSError):
        sweep_folder(args.name, args.results)
        # Imported here because it loads torch and pandas, which takes seconds.
        from analysis.check.output import print_check

        results = load(args.name, args.results, all=args.all, trust=args.trust)
        disagrees = print_check(results, plain_console(), args)
    if disagrees:
        raise SystemExit(EXIT_DISAGREES)


def _parser() -> CommandParser:
    parser = CommandParser(
        "check",
        description="Compare the measurements of a sweep with theory, layer by layer.",
        epilog="Exit status: 0; 1 if a layer disagrees with theory; 2 after an error.",
    )
    add_sweep_arguments(parser)
    add_trust_argument(parser)
    parser.add_argument(
        "--quantity",
        default="preact_m2",
        help="quantity in the tables, such as vjp_m2 (default: %(default)s)",
    )
    parser.add_argument(
        "--image",
        type=int,
        help="probe image in the tables; -1 is the mean over the probe set (default: -1 where the "
        "mean is predicted, else the first image of probe.images)",
    )
    parser.add_argument(
        "--margin",
        type=_parse_factor,
        default=1.1,
        help="a layer within this factor of its prediction agrees (default: %(default)s)",
    )
    parser.add_argument(
        "--level",
        type=parse_probability,
        default=0.05,
        help="probability of one or more false positives in the whole sweep (default: %(default)s)",
    )
    parser.add_argument(
        "--tables", action="store_true", help="also print details and a table for every setting"
    )
    parser.add_argument("--csv", metavar="FILE", help="also write the tables to this CSV file")
    parser.add_argument(
        "--recompute", action="store_true", help="ignore stored predictions and compute them again"
    )
    add_workers_argument(parser)
    return parser


def _parse_factor(text: str) -> float:
    number = parse_number(text)
    if not 1 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: must be above 1, such as 1.1")
    return number


if __name__ == "__main__":
    main()
