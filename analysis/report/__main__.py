"""Write the report of a sweep: `fanin report NAME`, or an index with `--all`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.cli import (
    ALL_HELP,
    add_sweep_arguments,
    add_trust_argument,
    add_workers_argument,
    prediction_progress,
)
from analysis.folder import sweep_folder
from experiments.console import exit_on_error
from fanin.parser import CommandParser


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page and print its path."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.name is None and not args.all:
        parser.error("give the name of a sweep, or --all for an index of all sweeps")
    with exit_on_error():
        if args.name is not None:
            sweep_folder(args.name, args.results)
        # Imported here because it loads torch and seaborn, which takes seconds.
        from analysis.report.page import TheoryOptions, write_index, write_report

        if args.name is None:
            page = write_index(Path(args.results))
        else:
            with prediction_progress() as on_predicted:
                theory = TheoryOptions(args.theory, args.workers, on_predicted)
                page = write_report(args.name, args.results, theory, args.all, trust=args.trust)
    print(page)


def _parser() -> CommandParser:
    parser = CommandParser(
        "report",
        description="Write the report of a sweep as one self-contained HTML page; print its path.",
    )
    add_sweep_arguments(
        parser,
        all_help=f"{ALL_HELP}; without NAME: write an index of all sweeps in the results folder",
        nargs="?",
    )
    add_trust_argument(parser)
    parser.add_argument(
        "--no-theory", dest="theory", action="store_false", help="skip the theory check"
    )
    add_workers_argument(parser)
    return parser


if __name__ == "__main__":
    main()
