"""Output of `fanin compare`: sentences and a table for every group, and files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.compare.comparison import InitComparison, compare_strategies
from analysis.compare.files import write_files
from analysis.compare.sentences import group_sentences, missing_sentences, overall_sentences
from analysis.compare.spec import ComparisonSpec
from analysis.compare.tables import legend, narrow_standings_table, ranks_table, standings_table
from analysis.load import Results

TABLE_WIDTH = 100  # characters


def print_comparison(
    results: Results, spec: ComparisonSpec, console: Console, wide: bool = False
) -> None:
    """Compare the strategies of a sweep; print the comparison and write it to files.

    Parameters
    ----------
    results
        The sweep.
    spec
        Specification of the comparison.
    console
        Console to print to.
    wide
        Print tables with all columns, of any width.
    """
    comparison = compare_strategies(results, spec)
    for line in comparison_sentences(comparison):
        console.print(line, soft_wrap=True)
    width = None if wide else TABLE_WIDTH
    for group in comparison.groups:
        title = ": ".join(filter(None, [group.title, spec.metric_info.label]))
        table = standings_table(group, spec) if wide else narrow_standings_table(group, spec)
        console.print(render_table(table, title), width=width)
    if comparison.overall is not None:
        console.print(render_table(ranks_table(comparison), "All settings together"), width=width)
    console.print(legend(comparison, wide), soft_wrap=True)
    folder = results.folder.root / "compare"
    for name, suffixes in group_by_stem(write_files(comparison, folder)).items():
        console.print(f"Wrote {folder / name}.{suffixes}")


def comparison_sentences(comparison: InitComparison) -> Iterator[str]:
    """Yield sentences on all settings together, on each group, and on groups without results."""
    yield from overall_sentences(comparison)
    for group in comparison.groups:
        sentences = group_sentences(group, comparison.spec)
        if len(comparison.groups) > 1:
            sentences = [f"{group.title}: {sentences[0]}", *(f"  {line}" for line in sentences[1:])]
        yield from sentences
    yield from missing_sentences(comparison)


def group_by_stem(paths: Iterable[Path]) -> dict[str, str]:
    """Map file stems to their suffixes: `csv`, or `{pdf,svg,png}`."""
    suffixes: dict[str, list[str]] = {}
    for path in paths:
        suffixes.setdefault(path.stem, []).append(path.suffix[1:])
    return {
        stem: group[0] if len(group) == 1 else f"{{{','.join(group)}}}"
        for stem, group in suffixes.items()
    }


def render_table(frame: pd.DataFrame, title: str) -> Table:
    """Return a table for the terminal; long names are wrapped, not truncated."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in frame:
        table.add_column(str(name), overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*row)
    return table
