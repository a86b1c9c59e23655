"""What has become of each cell, from the files alone."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.sweep.store.journal import read_events
from experiments.sweep.store.parquet import commit_journal, read_parts
from experiments.sweep.store.paths import SweepFolder

DONE = ("ok", "diverged")
FAILED = ("error", "oom", "timeout")
INTERRUPTED = ("killed", "node_fail", "cancelled")


@dataclass(frozen=True)
class CellState:
    """The latest attempt of a cell."""

    outcome: str
    attempt: int
    seconds: float


def recover(folder: SweepFolder) -> int:
    """Commit the journals that a dead launcher or worker left; return how many there were."""
    left = sorted(folder.journals.glob("*.journal"))
    for journal in left:
        commit_journal(folder, journal)
    return len(left)


def read_states(folder: SweepFolder) -> dict[str, CellState]:
    """The latest attempt of every cell that has any, those in journals included."""
    parts = read_parts(folder, "cells", ["cell_id", "outcome", "attempt", "seconds"])
    states: dict[str, CellState] = {}
    for row in (row for _, part in parts for row in part.to_pylist()):
        before = states.get(row["cell_id"])
        if before is None or row["attempt"] >= before.attempt:
            states[row["cell_id"]] = CellState(row["outcome"], row["attempt"], row["seconds"])
    for journal in folder.journals.glob("*.journal"):
        for event in read_events(journal)[0]:
            if event.kind == "done":
                attempt = states[event.cell_id].attempt + 1 if event.cell_id in states else 1
                states[event.cell_id] = CellState(event.outcome, attempt, float("nan"))
    return states
