"""Output of `fanin compare`: sentences and a table for every group, and files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.compare.comparison import InitComparison, compare_strategies
from analysis.compare.files import write_files
from analysis.compare.sentences import group_sentences, missing_sentences, overall_sentences
from analysis.compare.spec import ComparisonSpec
from analysis.compare.tables import legend, ranks_table, standings_table
from analysis.load import Results


def print_comparison(results: Results, spec: ComparisonSpec, console: Console) -> None:
    """Compare the strategies of a sweep; print the comparison and write it to files."""
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
