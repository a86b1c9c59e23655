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
    """Print a table and its sentences for every group, and write them as files."""
    asked = _parser().parse_args(argv)
    spec = ComparisonSpec(
        by=asked.by,
        metric=asked.metric,
        within=tuple(key for key in asked.within.split(",") if key),
        tune="" if asked.tune == "none" else asked.tune,
        level=asked.level,
        few_seeds=asked.few_seeds,
    )
    console = plain_console()
    with exit_on_error(OSError):
        results = load(asked.name, asked.results)
        compared = compare_strategies(results, spec)
        _print(compared, console)
        folder = results.folder.root / "compare"
        for name, suffixes in group_by_stem(write_files(compared, folder)).items():
            console.print(f"Written: {folder / name}.{suffixes}")


def _print(compared: InitComparison, console: Console) -> None:
    spec = compared.spec
    console.print(legend(compared), soft_wrap=True)
    for group in compared.groups:
        console.print(_shown(standings_table(group, spec), group.title))
        for line in group_sentences(group, spec):
            console.print(line, soft_wrap=True)
    if compared.overall is not None:
        console.print(_shown(ranks_table(compared), "All settings together"))
    for line in (*overall_sentences(compared), *missing_sentences(compared)):
        console.print(line, soft_wrap=True)


def group_by_stem(paths: Iterable[Path]) -> dict[str, str]:
    """Files by name, and how their names end: `csv`, or `{pdf,svg,png}`."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(path.stem, []).append(path.suffix[1:])
    return {
        name: ends[0] if len(ends) == 1 else f"{{{','.join(ends)}}}" for name, ends in found.items()
    }


def _shown(frame: pd.DataFrame, title: str) -> Table:
    table = Table(*frame.columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in frame.itertuples(index=False):
        table.add_row(*row)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.compare",
        description="Compare a sweep's strategies: means with intervals over seeds, paired "
        "differences, Holm-corrected tests, ranks, the best learning rate and what missing it "
        "costs. Prints tables and what they support; writes CSV, LaTeX and figures into the "
        "sweep's compare/.",
    )
    default = ComparisonSpec()
    add_sweep_arguments(parser)
    parser.add_argument(
        "--by", default=default.by, metavar="AXIS", help="what is compared; default: %(default)s"
    )
    parser.add_argument(
        "--metric", default=default.metric, help=f"{', '.join(METRICS)}; default: %(default)s"
    )
    parser.add_argument(
        "--within", default="", metavar="AXIS,...", help="a comparison for each value of these"
    )
    parser.add_argument(
        "--tune",
        default=default.tune,
        metavar="AXIS",
        help="each run at the value of it with the lowest training loss; none: compare "
        "at every value; default: %(default)s",
    )
    parser.add_argument(
        "--level",
        type=parse_probability,
        default=default.level,
        help="chance of any false alarm among all pairs; default: %(default)s",
    )
    parser.add_argument(
        "--few-seeds", action="store_true", help=f"rank on fewer than {MIN_SEEDS} seeds as well"
    )
    return parser


if __name__ == "__main__":
    main()
