"""Pages of the report: one page per sweep, and the index of all sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from analysis.load import Results, load
from analysis.predictions import OnPredicted
from analysis.report import figures, outcomes, provenance, template
from analysis.report.cells import Column, cell_columns, common_values, fold_options
from analysis.report.export import average_over_seeds, cells_csv, seed_means_latex
from analysis.report.figures import build_study_section
from analysis.report.init_comparison import compare_inits
from analysis.report.outcomes import OutcomeCount, sorted_counts
from analysis.report.provenance import Launch, read_launches
from analysis.report.theory_check import (
    SKIPPED,
    TheorySection,
    check_theory,
    try_compare,
    without_predictions,
)
from analysis.report.training import build_training_section
from analysis.theory_comparison import TheoryComparison
from experiments.atomic_write import atomic_write
from experiments.sweep.status.format import count_outcomes, state_text
from experiments.sweep.status.reader import StatusReader, find_sweep, is_sweep
from experiments.sweep.status.status import Status
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import read_states
from fanin.errors import FaninError

FIRST_ROWS = 50  # rows of the table of cells without JavaScript
PAGE = Path("report") / "index.html"  # in the sweep's folder
INDEX = "index.html"


@dataclass(frozen=True)
class TheoryOptions:
    """Options of the theory section."""

    enabled: bool = True
    workers: int = 1
    on_predicted: OnPredicted = lambda done, total: None


def write_report(
    name: str,
    results: str | Path,
    theory: TheoryOptions,
    all_requests: bool = False,
    *,
    trust: bool = False,
) -> Path:
    """Write the page of a sweep and its downloads; return the path of the page.

    Parameters
    ----------
    name
        Name of the sweep.
    results
        Folder of all sweeps.
    theory
        Options of the theory section.
    all_requests
        Include the cells of all requests, not only of the last one.
    trust
        Same as for `analysis.load`.

    Raises
    ------
    FaninError
        The sweep does not exist, or the page cannot be written.
    """
    folder = find_sweep(Path(results), name)
    loaded = load(folder.root.name, folder.root.parent, all=all_requests, trust=trust)
    status = StatusReader(folder, cells=loaded.request).read()
    all_columns = _columns(folder, loaded, status)
    comparisons, skip_reason = _compare_to_theory(loaded, theory)
    columns = fold_options(all_columns)
    page = folder.root / PAGE
    atomic_write(page.with_name("cells.csv"), cells_csv(all_columns))
    latex = seed_means_latex(average_over_seeds(columns), status.name)
    atomic_write(page.with_name("cells.tex"), latex)
    context = _template_context(loaded, status, columns, comparisons, skip_reason, theory.enabled)
    atomic_write(page, template.render("page.html", **context).encode())
    return page


def _columns(folder: SweepFolder, loaded: Results, status: Status) -> list[Column]:
    cell_outcomes = {cell: state.outcome for cell, state in read_states(folder).items()}
    running = {cell.cell_id for worker in status.workers for cell in worker.cells}
    return cell_columns(loaded.plan, loaded.cells, cell_outcomes, running)


def _compare_to_theory(
    loaded: Results, theory: TheoryOptions
) -> tuple[Sequence[TheoryComparison], str | None]:
    if theory.enabled:
        return try_compare(loaded, theory.workers, theory.on_predicted)
    return without_predictions(loaded), SKIPPED


def _template_context(
    loaded: Results,
    status: Status,
    columns: Sequence[Column],
    comparisons: Sequence[TheoryComparison],
    skip_reason: str | None,
    with_theory: bool,
) -> dict[str, Any]:
    folder = loaded.folder
    launches, warnings = read_launches(folder)
    axes = provenance.collect_axes(launches, loaded.plan)
    figures_command = provenance.analysis_command(folder, "figures")
    study = build_study_section(loaded, figures_command)
    page_figures, n_more = ([], 0) if study is None else (list(study.figures), 0)
    if not page_figures:
        page_figures, n_more = figures.moments_by_layer(comparisons, figures_command)
    cell_outcomes = _outcomes(columns)
    layers = loaded.layers
    has_measured_layers = not layers.empty and bool((layers["step"] == 0).any())
    report_command = provenance.analysis_command(folder, "report")
    return {
        "name": status.name,
        "question": _last_question(launches),
        "source": next((launch.source for launch in launches if launch.source), None),
        "created": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "status": status,
        "state_text": state_text(status),
        "notes": [*filter(None, [loaded.left_out]), *status.warnings, *warnings],
        "axes": [axis for axis in axes if len(axis.values) > 1],
        "single_valued": [axis for axis in axes if len(axis.values) == 1],
        "exclude": sorted({pattern for launch in launches for pattern in launch.exclude}),
        "common_values": common_values(loaded.plan),
        "launches": launches,
        "facts": provenance.sweep_facts(status, launches, loaded.cells),
        "outcome_sentences": outcomes.outcome_sentences(loaded, cell_outcomes),
        "training": build_training_section(loaded, columns, report_command),
        "outcome_counts": outcomes.count_outcomes(cell_outcomes),
        "outcomes_by_axis": outcomes.outcomes_by_axis(columns),
        "figures": page_figures,
        "n_more_figures": n_more,
        "figures_command": figures_command,
        "study": study,
        "theory": check_theory(loaded, comparisons)
        if skip_reason is None
        else TheorySection(skip_reason=skip_reason),
        "check_command": provenance.analysis_command(folder, "check"),
        "with_theory": with_theory,
        "comparison": compare_inits(loaded, columns),
        "columns": columns,
        "n_cells": len(cell_outcomes),
        "n_first_rows": min(FIRST_ROWS, len(cell_outcomes)),
        "cells_data": [vars(column) for column in columns],
        "failures": outcomes.group_failures(status.failures),
        "has_measured_layers": has_measured_layers,
        "steps": provenance.reproduction_steps(
            folder, launches, has_measured_layers, has_measured_layers or study is not None
        ),
    }


def _last_question(launches: Sequence[Launch]) -> str | None:
    return next((launch.question for launch in reversed(launches) if launch.question), None)


def _outcomes(columns: Sequence[Column]) -> list[str]:
    return next((column.values for column in columns if column.role == "outcome"), [])


@dataclass(frozen=True)
class SweepRow:
    """One sweep of the index.

    `link` is None if the sweep has no report, `last_change` is None if it has no results.
    """

    name: str
    question: str | None
    status: Status
    outcome_counts: Sequence[OutcomeCount]
    last_change: str | None
    link: str | None
    notes: Sequence[str]


def write_index(results: Path) -> Path:
    """Write the index of all sweeps; return its path.

    Raises
    ------
    FaninError
        The folder does not exist, or the page cannot be written.
    """
    if not results.is_dir():
        raise FaninError(f"{results}: no such folder; set --results to the folder of the sweeps")
    rows, unreadable, other_folders = [], [], []
    for path in sorted(results.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        folder = SweepFolder(path)
        if not is_sweep(folder):
            other_folders.append(path.name)
            continue
        try:
            rows.append(_sweep_row(folder))
        except (FaninError, OSError, ValueError) as error:  # list the other sweeps nevertheless
            unreadable.append(f"{path.name}: {error}")
    rows.sort(key=lambda row: row.status.last_change or 0.0, reverse=True)
    page = results / INDEX
    text = template.render(
        "index.html",
        rows=rows,
        unreadable=unreadable,
        other_folders=other_folders,
        results=str(results),
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    atomic_write(page, text.encode())
    return page


def _sweep_row(folder: SweepFolder) -> SweepRow:
    status = StatusReader(folder).read(0)
    launches, warnings = read_launches(folder)
    name = folder.root.name
    return SweepRow(
        name=name,
        question=_last_question(launches),
        status=status,
        outcome_counts=sorted_counts(dict(count_outcomes(status))),
        last_change=None
        if status.last_change is None
        else f"{datetime.fromtimestamp(status.last_change, UTC):%Y-%m-%d %H:%M}",
        link=f"{quote(name)}/{PAGE.as_posix()}" if (folder.root / PAGE).exists() else None,
        notes=[*status.warnings, *warnings],
    )
