"""Compare strategies: `fanin compare NAME --by init --metric test_accuracy`."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.cli import add_sweep_arguments, add_trust_argument, parse_probability, plain_console
from analysis.compare.spec import METRICS, MIN_SEEDS, ComparisonSpec
from analysis.folder import sweep_folder
from analysis.load import load
from experiments.console import exit_on_error
from fanin.parser import CommandParser


def main(argv: Sequence[str] | None = None) -> None:
    """Print sentences and a table for every group, and write them to files."""
    args = _parser().parse_args(argv)
    spec = ComparisonSpec(
        by=args.by,
        metric=args.metric,
        within=tuple(key for key in args.within.split(",") if key),
        tune="" if args.tune == "none" else args.tune,
        level=args.level,
        few_seeds=args.few_seeds,
    )
    console = plain_console()
    with exit_on_error(OSError):
        sweep_folder(args.name, args.results)
        # Imported here because it loads torch and seaborn, which takes seconds.
        from analysis.compare.output import print_comparison

        results = load(args.name, args.results, all=args.all, trust=args.trust)
        print_comparison(results, spec, console, args.wide)


def _parser() -> CommandParser:
    parser = CommandParser(
        "compare",
        description="Compare the strategies of a sweep: means with confidence intervals over "
        "seeds, paired differences, Holm-corrected tests, ranks, the best learning rate, and how "
        "much worse the other learning rates are. Prints sentences and tables; writes CSV, LaTeX "
        "and figures to the sweep's folder compare/.",
    )
    default = ComparisonSpec()
    add_sweep_arguments(parser)
    add_trust_argument(parser)
    parser.add_argument(
        "--by",
        default=default.by,
        metavar="AXIS",
        help="axis whose values are compared (default: %(default)s)",
    )
    parser.add_argument(
        "--metric", default=default.metric, help=f"{', '.join(METRICS)} (default: %(default)s)"
    )
    parser.add_argument(
        "--within",
        default="",
        metavar="AXIS,...",
        help="make a separate comparison for each value of these axes",
    )
    parser.add_argument(
        "--tune",
        default=default.tune,
        metavar="AXIS",
        help="tune this axis: each seed uses the value with the lowest final training loss; none "
        "compares at each value separately (default: %(default)s)",
    )
    parser.add_argument(
        "--level",
        type=parse_probability,
        default=default.level,
        help="probability of one or more false positives among all pairs (default: %(default)s)",
    )
    parser.add_argument(
        "--few-seeds", action="store_true", help=f"also rank with fewer than {MIN_SEEDS} seeds"
    )
    parser.add_argument(
        "--wide", action="store_true", help="print all columns instead of those that fit a terminal"
    )
    return parser


if __name__ == "__main__":
    main()
