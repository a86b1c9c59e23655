"""What has become of each cell, from the files alone."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.sweep.store.journal import Event, journals_in, read_events
from experiments.sweep.store.parquet import commit_journal, read_parts
from experiments.sweep.store.paths import SweepFolder

COLUMNS = ("cell_id", "outcome", "attempt", "seconds", "outcome_reason")
DONE = ("ok", "diverged")
FAILED = ("error", "oom", "timeout")
INTERRUPTED = ("killed", "node_fail", "cancelled")


@dataclass(frozen=True)
class CellState:
    """The latest attempt of a cell."""

    outcome: str
    attempt: int
    seconds: float
    reason: str | None = None


def recover(folder: SweepFolder) -> int:
    """Commit the journals that a dead launcher or worker left; return how many there were."""
    left = journals_in(folder.journals)
    for journal in left.values():
        commit_journal(folder, journal)
    return len(left)


def read_states(folder: SweepFolder) -> dict[str, CellState]:
    """The latest attempt of every cell that has any, those in journals included."""
    # Journals first: one whose pack ends meanwhile is then found among the parts.
    journals = {stem: _events(path) for stem, path in journals_in(folder.journals).items()}
    parts = dict(read_parts(folder, "cells", COLUMNS))
    states: dict[str, CellState] = {}
    for row in (row for part in parts.values() for row in part.to_pylist()):
        before = states.get(row["cell_id"])
        if before is None or row["attempt"] >= before.attempt:
            states[row["cell_id"]] = CellState(
                row["outcome"], row["attempt"], row["seconds"], row["outcome_reason"]
            )
    for event in (e for stem, events in journals.items() if stem not in parts for e in events):
        if event.kind == "done":
            attempt = states[event.cell_id].attempt + 1 if event.cell_id in states else 1
            states[event.cell_id] = CellState(event.word, attempt, float("nan"))
    return states


def _events(journal: Path) -> list[Event]:
    for path in (journal, journal.with_suffix(".taken")):  # it may be taken since the listing
        with suppress(FileNotFoundError):
            return read_events(path)[0]
    return []
