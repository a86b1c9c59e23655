"""Pages: the report of one sweep, and the index of all sweeps."""

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
from analysis.report.cells import Column, cell_columns, folded, shared
from analysis.report.export import as_csv, as_latex, seeds_together
from analysis.report.figures import studied
from analysis.report.init_comparison import compared
from analysis.report.outcomes import Share, as_shares
from analysis.report.provenance import read_launches
from analysis.report.theory_check import LEFT_OUT, Checked, checked, predicted, unpredicted
from analysis.theory_comparison import TheoryComparison
from experiments.atomic_write import atomic_write
from experiments.sweep.status.format import count_outcomes, state_text
from experiments.sweep.status.reader import StatusReader, find_sweep, is_sweep
from experiments.sweep.status.status import Status
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import read_plan
from experiments.sweep.store.tables import read_states
from fanin.errors import FaninError

FIRST_ROWS = 50  # of the table of cells, that are there without JavaScript
PAGE = Path("report") / "index.html"  # in the sweep's folder
INDEX = "index.html"


@dataclass(frozen=True)
class Theory:
    """Options of the predictions."""

    wanted: bool = True
    workers: int = 1
    on_predicted: OnPredicted = lambda done, total: None


def write_report(name: str, results: str | Path, theory: Theory) -> Path:
    """Make a sweep's page and the tables beside it; the page's path.

    Raises
    ------
    FaninError
        There is no such sweep, or the page can't be written.
    """
    folder = find_sweep(Path(results), name)
    loaded = load(folder.root.name, folder.root.parent)
    status = StatusReader(folder).read()
    columns = _columns(folder, loaded, status)
    comparisons, why = _compared_with_theory(loaded, theory)
    shown = folded(columns)
    page = folder.root / PAGE
    atomic_write(page.with_name("cells.csv"), as_csv(columns))
    atomic_write(page.with_name("cells.tex"), as_latex(seeds_together(shown), status.name))
    text = template.render(
        "page.html", **_told(loaded, status, shown, comparisons, why, theory.wanted)
    )
    atomic_write(page, text.encode())
    return page


def _columns(folder: SweepFolder, loaded: Results, status: Status) -> list[Column]:
    ended = {cell: state.outcome for cell, state in read_states(folder).items()}
    running = {cell.cell_id for worker in status.workers for cell in worker.cells}
    return cell_columns(read_plan(folder), loaded.cells, ended, running)


def _compared_with_theory(
    loaded: Results, theory: Theory
) -> tuple[Sequence[TheoryComparison], str | None]:
    if theory.wanted:
        comparisons, why = predicted(loaded, theory.workers, theory.on_predicted)
        return comparisons, why
    return unpredicted(loaded), LEFT_OUT


def _told(
    loaded: Results,
    status: Status,
    columns: Sequence[Column],
    comparisons: Sequence[TheoryComparison],
    why: str | None,
    with_theory: bool,
) -> dict[str, Any]:
    """Everything that the template shows."""
    folder = loaded.folder
    there, unread = read_launches(folder)
    axes = provenance.axes_of(there)
    draw = provenance.on_sweep(folder, "figures")
    study = studied(loaded, draw)
    published = [] if study is None else list(study.figures)
    pictures = figures.moments_by_layer
    shown, more = (published, 0) if published else pictures(comparisons, draw)
    return {
        "name": status.name,
        "question": next((each.question for each in reversed(there) if each.question), None),
        "source": next((each.source for each in there if each.source), None),
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "status": status,
        "state_text": state_text(status),
        "notes": [*status.warnings, *unread],
        "axes": [axis for axis in axes if len(axis.values) > 1],
        "fixed": [axis for axis in axes if len(axis.values) == 1],
        "exclude": sorted({pattern for each in there for pattern in each.exclude}),
        "shared": shared(read_plan(folder)),
        "launches": there,
        "facts": provenance.facts(status, there, loaded.cells),
        "shares": outcomes.shares(_outcomes(columns)),
        "by_axis": outcomes.by_axis(columns),
        "figures": shown,
        "more_figures": more,
        "figures_command": draw,
        "study": study,
        "checked": checked(loaded, comparisons) if why is None else Checked(skip_reason=why),
        "check_command": provenance.on_sweep(folder, "check"),
        "with_theory": with_theory,
        "compared": compared(loaded, columns),
        "columns": columns,
        "rows": len(_outcomes(columns)),
        "first_rows": min(FIRST_ROWS, len(_outcomes(columns))),
        "cells_data": _data(columns),
        "failures": outcomes.grouped(status.failures),
        "steps": provenance.steps(folder, there),
    }


def _outcomes(columns: Sequence[Column]) -> list[str]:
    return next((column.values for column in columns if column.role == "outcome"), [])


def _data(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Collect the data that the page's script reads."""
    return [vars(column) for column in columns]


@dataclass(frozen=True)
class SweepRow:
    """One sweep of the list; `link` is None where it has no report, `when` where nothing ran."""

    name: str
    question: str | None
    status: Status
    shares: Sequence[Share]
    when: str | None
    link: str | None
    notes: Sequence[str]


def write_index(results: Path) -> Path:
    """Make the page; its path.

    Raises
    ------
    FaninError
        There is no such folder, or the page can't be written.
    """
    if not results.is_dir():
        raise FaninError(f"{results}: no such folder (--results says where sweeps are kept)")
    rows, torn, foreign = [], [], []
    for path in sorted(results.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        folder = SweepFolder(path)
        if not is_sweep(folder):
            foreign.append(path.name)
            continue
        try:
            rows.append(_row(folder))
        except (FaninError, OSError, ValueError) as error:  # its other neighbours count too
            torn.append(f"{path.name}: {error}")
    rows.sort(key=lambda row: row.status.last_change or 0.0, reverse=True)
    page = results / INDEX
    told = {"rows": rows, "torn": torn, "foreign": foreign, "results": str(results)}
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    atomic_write(page, template.render("index.html", made=made, **told).encode())
    return page


def _row(folder: SweepFolder) -> SweepRow:
    status = StatusReader(folder).read(0)
    launches, unread = read_launches(folder)
    name = folder.root.name
    return SweepRow(
        name=name,
        question=next((each.question for each in reversed(launches) if each.question), None),
        status=status,
        shares=as_shares(dict(count_outcomes(status))),
        when=None
        if status.last_change is None
        else f"{datetime.fromtimestamp(status.last_change, UTC):%Y-%m-%d %H:%M}",
        link=f"{quote(name)}/{PAGE.as_posix()}" if (folder.root / PAGE).exists() else None,
        notes=[*status.warnings, *unread],
    )
