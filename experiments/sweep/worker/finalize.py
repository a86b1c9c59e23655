"""Journals whose writer is gone, turned into tables: finished cells kept, those at work failed."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.config.identity import flatten
from experiments.result import CellResult
from experiments.sweep.provenance import code_version, versions
from experiments.sweep.store.journal import (
    TAKEN,
    Event,
    journals_in,
    read_events,
    read_results,
    read_writer,
    take_journal,
)
from experiments.sweep.store.parquet import commit_results
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import PlanRecord
from experiments.sweep.types import PackedCell

MESSAGE = 2000  # characters of an error's message that a table keeps; the traceback's file has all
DIED = ("killed", "its launcher died")
STOPPED = ("cancelled", "the sweep was stopped")


def recover_journals(
    folder: SweepFolder, frozen: Mapping[str, PlanRecord], why: tuple[str, str] = DIED
) -> None:
    """Finalize every journal that a launcher left which died, or was told to stop.

    To be called under `acquire_sweep_lock`. A worker that lives on all the same, as none should,
    has lost its journal, and with it the right to write tables; its cells' next attempts have a
    higher number. Jobs on a cluster live on as they should: their journals are left alone.

    Parameters
    ----------
    folder
        The sweep's.
    frozen
        Its planned cells (`read_plan`).
    why
        Outcome and reason of the cells that were at work.
    """
    cells = {c: PackedCell(c, 1, line["config"], line["choices"]) for c, line in frozen.items()}
    for journal in journals_in(folder.journals).values():
        if not _is_anothers(folder, journal):
            finalize_journal(folder, journal, cells, *why, fail_all=True)
    for left in folder.journals.glob(f"*{TAKEN}/"):  # its taker died before it was through
        shutil.rmtree(left, ignore_errors=True)


def _is_anothers(folder: SweepFolder, journal: Path) -> bool:
    """Return True if a journal lies in a folder of its own which nobody has taken back."""
    first, *rest = journal.relative_to(folder.journals).parts
    return bool(rest) and not first.endswith(TAKEN)


@dataclass(frozen=True)
class FinalizedJournal:
    """Cells of a journal: `finished` have their result, `failed` a row that says what befell them.

    `candidates` were at work together, so nobody knows which of them it was: they have no row.
    """

    finished: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    candidates: frozenset[str] = frozenset()


def finalize_journal(
    folder: SweepFolder,
    journal: Path,
    cells: Mapping[str, PackedCell],
    outcome: str,
    reason: str,
    fail_all: bool = False,
) -> FinalizedJournal | None:
    """Take a journal, write its tables, and give what was at work an outcome.

    Parameters
    ----------
    folder
        The sweep's.
    journal
        `STEM.journal`, or a `STEM.taken` whose taker is dead.
    cells
        The cells that may be in it, by id; the attempt is what the journal says.
    outcome, reason
        Of the cell that was at work.
    fail_all
        Whether several that were at work together all have it: where no cell of them is to blame,
        as when their launcher died or was told to stop.

    Returns
    -------
    FinalizedJournal or None
        None where somebody else has taken the journal, or there is none.
    """
    taken = journal if journal.suffix == ".taken" else take_journal(journal)
    if taken is None:
        return None
    try:
        writer = read_writer(taken)
        events = read_events(taken)[0]
        results = read_results(taken)
    except FileNotFoundError:
        return None
    at_work: dict[str, int] = {}
    update_running(at_work, events)
    about = writer.about if writer is not None else {}
    guilty = at_work if fail_all or len(at_work) == 1 else {}
    for cell, attempt in guilty.items():
        if cell in cells:
            packed = PackedCell(cell, attempt, cells[cell].config, cells[cell].choices)
            result = failed_result(packed, outcome, reason)
            row = complete_row(packed, result.row, about.get("device"), about.get("engine"))
            results.append(CellResult(row, {}))
    commit_results(folder, taken, results)
    finished = frozenset(event.cell_id for event in events if event.kind == "done")
    return FinalizedJournal(finished, frozenset(guilty), frozenset(at_work) - frozenset(guilty))


def update_running(at_work: dict[str, int], events: Iterable[Event]) -> None:
    """Update in place the cells that have begun and not ended, each with its attempt."""
    for event in events:
        if event.kind == "start":
            at_work[event.cell_id] = int(event.value)
        elif event.kind == "done":
            at_work.pop(event.cell_id, None)


def failed_result(cell: PackedCell, outcome: str, reason: str) -> CellResult:
    """Return the row of a cell that left no result."""
    row = dict(flatten(cell.config)) | {
        "outcome": outcome,
        "outcome_step": None,
        "outcome_tensor": None,
        "outcome_reason": reason[:MESSAGE],
        "test_accuracy": float("nan"),
        "test_loss": float("nan"),
        "train_loss": float("nan"),
        "seconds": float("nan"),
    }
    return CellResult(row, {})


def complete_row(
    cell: PackedCell,
    row: dict[str, Any],
    device: str | None,
    engine: str | None,
    code: str | None = None,
) -> dict[str, Any]:
    """Add to a result's row its cell, the options it was made of, and where it ran.

    `code` where that isn't the code of this process.
    """
    where = {
        "engine": engine,
        "attempt": cell.attempt,
        "host": platform.node(),
        "device": device,
        "threads": torch.get_num_threads(),
        "code": code or code_version(),
        **versions("python", "torch", "numpy"),
    }
    return {"cell_id": cell.cell_id, **cell.choices, **row, **where}
