"""Finalizing journals of dead writers: keep finished cells, give running ones an outcome."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.config.identity import flatten
from experiments.result import CellResult
from experiments.sweep.provenance import code_version, versions
from experiments.sweep.store.journal import (
    TAKEN_SUFFIX,
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

MAX_REASON_CHARS = 2000  # of a message in a table; the traceback's file has all of it
KILLED = ("killed", "launcher died")
CANCELLED = ("cancelled", "sweep was stopped")


def recover_journals(
    folder: SweepFolder, records: Mapping[str, PlanRecord], cause: tuple[str, str] = KILLED
) -> None:
    """Finalize every journal of a launcher that died or was stopped.

    Call this under `acquire_sweep_lock`. A worker that survived its launcher loses its journal, and
    with it the right to write tables; later attempts of its cells have higher numbers. Slurm jobs
    outlive their launcher, so journals with a lease are left alone.

    Parameters
    ----------
    folder
        Folder of the sweep.
    records
        Its planned cells (`read_plan`).
    cause
        Outcome and reason of the cells that were running.
    """
    cells = {
        cell: PackedCell(cell, 1, record["config"], record["choices"])
        for cell, record in records.items()
    }
    for journal in journals_in(folder.journals).values():
        if not _is_leased(folder, journal):
            finalize_journal(folder, journal, cells, *cause, fail_all=True)
    for lease_dir in folder.journals.glob(f"*{TAKEN_SUFFIX}/"):  # left by a process that died
        shutil.rmtree(lease_dir, ignore_errors=True)


def _is_leased(folder: SweepFolder, journal: Path) -> bool:
    """Return True if a journal lies in the folder of a lease that has not expired."""
    first, *rest = journal.relative_to(folder.journals).parts
    return bool(rest) and not first.endswith(TAKEN_SUFFIX)


@dataclass(frozen=True)
class FinalizedJournal:
    """Cells of a finalized journal.

    `finished` cells have their result, `failed` cells a row with their outcome. `candidates` ran
    together when the process died, so any of them may be the cause: they have no row.
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
    """Take a journal, write its tables, and give the running cell an outcome.

    Parameters
    ----------
    folder
        Folder of the sweep.
    journal
        `STEM.journal`; or `STEM.taken`, if the process that took it is dead.
    cells
        The cells that may be in the journal, by id. The attempt number comes from the journal.
    outcome, reason
        Outcome and reason of the cell that was running.
    fail_all
        Give this outcome to all cells that ran together, because the cause is none of the cells
        (for example, their launcher ended).

    Returns
    -------
    FinalizedJournal or None
        None if another process has taken the journal, or it does not exist.
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
    running: dict[str, int] = {}
    update_running(running, events)
    about = writer.about if writer is not None else {}
    failed = running if fail_all or len(running) == 1 else {}
    for cell_id, attempt in failed.items():
        if cell_id in cells:
            cell = replace(cells[cell_id], attempt=attempt, n_lost=0)
            result = failed_result(cell, outcome, reason)
            row = complete_row(cell, result.row, about.get("device"), about.get("engine"))
            results.append(CellResult(row, {}))
    commit_results(folder, taken, results)
    finished = frozenset(event.cell_id for event in events if event.kind == "done")
    return FinalizedJournal(finished, frozenset(failed), frozenset(running) - frozenset(failed))


def update_running(running: dict[str, int], events: Iterable[Event]) -> None:
    """Add started cells to `running` (attempt numbers by cell id), and remove done ones."""
    for event in events:
        if event.kind == "start":
            running[event.cell_id] = int(event.value)
        elif event.kind == "done":
            running.pop(event.cell_id, None)


def failed_result(cell: PackedCell, outcome: str, reason: str) -> CellResult:
    """Return a result without measurements, for a cell that ended before it had one."""
    row = dict(flatten(cell.config)) | {
        "outcome": outcome,
        "outcome_step": None,
        "outcome_tensor": None,
        "outcome_reason": reason[:MAX_REASON_CHARS],
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
    """Return a result's row with the cell's id, its options and its origin (host, code, ...).

    `code` defaults to the code version of this process.
    """
    import torch  # loads slowly; commands that find no journal don't need it

    origin = {
        "engine": engine,
        "attempt": cell.attempt,
        "host": platform.node(),
        "device": device,
        "threads": torch.get_num_threads(),
        "code": code or code_version(),
        **versions("python", "torch", "numpy"),
    }
    return {"cell_id": cell.cell_id, **cell.choices, **row, **origin}
