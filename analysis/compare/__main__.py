"""Compare strategies: `python -m analysis.compare NAME --by init --metric test_accuracy`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.cli import add_sweep_arguments, parse_probability, plain_console
from analysis.compare.comparison import InitComparison, compare_strategies
from analysis.compare.files import write_files
from analysis.compare.sentences import group_sentences, missing_sentences, overall_sentences
from analysis.compare.spec import METRICS, MIN_SEEDS, ComparisonSpec
from analysis.compare.tables import legend, ranks_table, standings_table
from analysis.load import load
from experiments.console import exit_on_error


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table and sentences for every group, and write them to files."""
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
        results = load(args.name, args.results)
        comparison = compare_strategies(results, spec)
        _print(comparison, console)
        folder = results.folder.root / "compare"
        for name, suffixes in group_by_stem(write_files(comparison, folder)).items():
            console.print(f"Wrote {folder / name}.{suffixes}")


def _print(comparison: InitComparison, console: Console) -> None:
    spec = comparison.spec
    console.print(legend(comparison), soft_wrap=True)
    for group in comparison.groups:
        console.print(_rich_table(standings_table(group, spec), group.title))
        for line in group_sentences(group, spec):
            console.print(line, soft_wrap=True)
    if comparison.overall is not None:
        console.print(_rich_table(ranks_table(comparison), "All settings together"))
    for line in (*overall_sentences(comparison), *missing_sentences(comparison)):
        console.print(line, soft_wrap=True)


def group_by_stem(paths: Iterable[Path]) -> dict[str, str]:
    """Map file stems to their suffixes: `csv`, or `{pdf,svg,png}`."""
    suffixes: dict[str, list[str]] = {}
    for path in paths:
        suffixes.setdefault(path.stem, []).append(path.suffix[1:])
    return {
        stem: group[0] if len(group) == 1 else f"{{{','.join(group)}}}"
        for stem, group in suffixes.items()
    }


def _rich_table(frame: pd.DataFrame, title: str) -> Table:
    table = Table(*frame.columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in frame.itertuples(index=False):
        table.add_row(*row)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.compare",
        description="Compare the strategies of a sweep: means with confidence intervals over "
        "seeds, paired differences, Holm-corrected tests, ranks, the best learning rate, and how "
        "much worse the other learning rates are. Prints tables and sentences; writes CSV, LaTeX "
        "and figures to the sweep's folder compare/.",
    )
    default = ComparisonSpec()
    add_sweep_arguments(parser)
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
    return parser


if __name__ == "__main__":
    main()
