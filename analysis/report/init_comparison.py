"""Init against init, from `analysis.compare`; or in one line why there is no comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.compare import ComparisonSpec, InitComparison, compare_strategies
from analysis.compare.files import figures
from analysis.compare.sentences import group_sentences, overall_sentences
from analysis.compare.tables import legend, ranks_table, standings_table
from analysis.load import Results
from analysis.report.cells import Column
from analysis.report.figures import Drawn, drawn
from analysis.report.provenance import on_sweep
from fanin.errors import FaninError

SPLIT = ("data", "model")  # each data set and each model gets a table of its own
METRICS = ("test_accuracy", "test_loss")
STANDINGS = (
    "The strategies in a row: a light dot is a seed, the dark one the mean over seeds, its bar the "
    "mean's 95 % interval."
)
TUNED = (
    "The mean score at every value that was tried. A dagger marks where some run diverged, a box "
    "each row's best."
)


@dataclass(frozen=True)
class ComparedGroup:
    """One table, and what it says."""

    title: str
    sentences: Sequence[str]
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class ComparisonSection:
    """The whole comparison, or why there is none (`skip_reason`).

    Attributes
    ----------
    answers
        What the settings say together.
    legend
        What the tables' columns mean.
    """

    groups: Sequence[ComparedGroup] = ()
    figures: Sequence[Drawn] = ()
    answers: Sequence[str] = ()
    legend: str = ""
    command: str = ""
    skip_reason: str | None = None


def compared(results: Results, columns: Sequence[Column]) -> ComparisonSection:
    """Compare a sweep's init schemes.

    Parameters
    ----------
    columns
        The sweep's `cell_columns`: which axes there are.
    """
    varying = {column.key for column in columns if column.role == "varies"}
    metric = next((key for key in METRICS if _is_there(results.cells, key)), None)
    if "init" not in {key.partition(".")[0] for key in varying}:
        return ComparisonSection(skip_reason="all cells have one init")
    if metric is None:
        return ComparisonSection(skip_reason="no cell was trained to its end")
    within = tuple(key for key in SPLIT if key in varying)
    spec = ComparisonSpec(metric=metric, within=within)
    try:
        found = compare_strategies(results, spec)
    except FaninError as error:
        return ComparisonSection(skip_reason=str(error))
    words = ["--metric", metric] if metric != ComparisonSpec().metric else []
    words += ["--within", ",".join(within)] if within else []
    command = on_sweep(results.folder, "compare", *words)
    return _told(found, command)


def _told(found: InitComparison, command: str) -> ComparisonSection:
    groups = [
        _group(group.title, standings_table(group, found.spec), group_sentences(group, found.spec))
        for group in found.groups
    ]
    answers = overall_sentences(found)
    if found.overall is not None:
        groups.append(_group("All settings together", ranks_table(found), answers))
    seen = " ".join(line for group in groups for line in group.sentences)
    captions = [STANDINGS, TUNED]
    pictures = [
        drawn(name, figure, caption, seen, caption, command)
        for (name, figure), caption in zip(figures(found), captions, strict=False)
    ]
    short = answers or [f"{g.title}: {line}" for g in groups for line in g.sentences[:1]]
    return ComparisonSection(groups, pictures, short, legend(found), command)


def _group(title: str, table: pd.DataFrame, sentences: Sequence[str]) -> ComparedGroup:
    rows = table.astype(str).to_numpy().tolist()
    return ComparedGroup(title or "All cells", sentences, [str(name) for name in table], rows)


def _is_there(cells: pd.DataFrame, key: str) -> bool:
    return key in cells and bool(cells[key].notna().any())
