"""The comparison section of the report: init schemes, compared by `analysis.compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.compare.comparison import InitComparison, compare_strategies
from analysis.compare.files import figures
from analysis.compare.sentences import group_sentences, overall_sentences
from analysis.compare.spec import ComparisonSpec
from analysis.compare.tables import join_names, legend, ranks_table, standings_table
from analysis.load import Results
from analysis.report.cells import Column
from analysis.report.figures import PageFigure, make_page_figure
from analysis.report.provenance import analysis_command
from experiments.config.groups import SEEDS
from fanin.errors import FaninError

WITHIN = ("data", "model")  # axes with a separate table for each value
METRICS = ("test_accuracy", "test_loss")
STANDINGS_CAPTION = (
    "Strategies in rows. A light dot is one seed. A dark dot is the mean over seeds with its 95 % "
    "confidence interval."
)
TUNING_CAPTION = (
    "Mean score at every tuned value. A dagger marks values where some run diverged; a box marks "
    "the best value of a row."
)


@dataclass(frozen=True)
class ComparedGroup:
    """The table and the sentences of one group."""

    title: str
    sentences: Sequence[str]
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class ComparisonSection:
    """The whole comparison, or the reason for its absence (`skip_reason`).

    Attributes
    ----------
    pooled
        Sentence that names the axes over which scores are averaged; empty if there are none.
    groups
        Tables of the groups, and of the ranks over all settings.
    figures
        Standings and tuned values.
    findings
        Sentences for the summary at the top of the page.
    legend
        Explanation of the tables' columns.
    command
        Command that makes the comparison.
    """

    pooled: str = ""
    groups: Sequence[ComparedGroup] = ()
    figures: Sequence[PageFigure] = ()
    findings: Sequence[str] = ()
    legend: str = ""
    command: str = ""
    skip_reason: str | None = None


def compare_inits(results: Results, columns: Sequence[Column]) -> ComparisonSection:
    """Compare the init schemes of a sweep.

    Parameters
    ----------
    results
        The sweep.
    columns
        The sweep's `cell_columns`, which define the axes.
    """
    varying = {column.key for column in columns if column.role == "varies"}
    metric = next((key for key in METRICS if _has_values(results.cells, key)), None)
    if "init" not in {key.partition(".")[0] for key in varying}:
        return ComparisonSection(skip_reason="all cells use the same init")
    if metric is None:
        return ComparisonSection(skip_reason="no cell has finished training")
    within = tuple(key for key in WITHIN if key in varying)
    try:
        comparison = compare_strategies(results, ComparisonSpec(metric=metric, within=within))
    except FaninError as error:
        return ComparisonSection(skip_reason=str(error))
    arguments = ["--metric", metric] if metric != ComparisonSpec().metric else []
    pooled = pooled_axes(varying)
    split = [*arguments, "--within", ",".join([*within, *pooled])]
    arguments += ["--within", ",".join(within)] if within else []
    section = _section(comparison, analysis_command(results.folder, "compare", *arguments))
    if not pooled:
        return section
    command = analysis_command(results.folder, "compare", *split)
    text = (
        f"Each score is a mean over all values of {join_names(pooled)}. To compare the inits for "
        f"each value separately: {command}"
    )
    return replace(section, pooled=text)


def pooled_axes(varying: set[str]) -> list[str]:
    """Return the axes that are neither compared, tuned, split nor seeds.

    >>> pooled_axes({"activation", "model", "init", "init.std", "optim.lr", "train.steps", "seed"})
    ['activation', 'train.steps']
    """
    groups = {key.partition(".")[0] for key in varying if "." not in key}
    axes = {key.partition(".")[0] if key.partition(".")[0] in groups else key for key in varying}
    own = {"init", "probe", ComparisonSpec().tune, *WITHIN, *SEEDS}
    return sorted(axis for axis in axes if not {axis, axis.partition(".")[0]} & own)


def _section(comparison: InitComparison, command: str) -> ComparisonSection:
    spec = comparison.spec
    groups = [
        _group(group.title, standings_table(group, spec), group_sentences(group, spec))
        for group in comparison.groups
    ]
    overall = overall_sentences(comparison)
    if comparison.overall is not None:
        groups.append(_group("All settings together", ranks_table(comparison), overall))
    description = " ".join(line for group in groups for line in group.sentences)
    captions = [STANDINGS_CAPTION, TUNING_CAPTION]
    page_figures = [
        make_page_figure(name, figure, caption, description, caption, command)
        for (name, figure), caption in zip(figures(comparison), captions, strict=False)
    ]
    findings = overall or [f"{g.title}: {line}" for g in groups for line in g.sentences[:1]]
    return ComparisonSection(
        groups=groups,
        figures=page_figures,
        findings=findings,
        legend=legend(comparison),
        command=command,
    )


def _group(title: str, table: pd.DataFrame, sentences: Sequence[str]) -> ComparedGroup:
    rows = table.astype(str).to_numpy().tolist()
    return ComparedGroup(title or "All cells", sentences, [str(name) for name in table], rows)


def _has_values(cells: pd.DataFrame, key: str) -> bool:
    return key in cells and bool(cells[key].notna().any())
