"""Cells that failed or were killed, with the reason and the traceback."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.sweep.status.snapshot import PlannedCells, Result
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import FAILED

FAILURES = (*FAILED, "killed", "node_fail")  # without `cancelled`: that was intended


@dataclass(frozen=True)
class Failure:
    """A cell that failed or was killed; `traceback` is None if no traceback was written."""

    cell_id: str
    label: str
    outcome: str
    attempt: int
    reason: str | None
    traceback: Path | None

    @property
    def summary(self) -> str:
        """First line of the reason."""
        return (self.reason or "").partition("\n")[0]


def describe_failures(
    folder: SweepFolder,
    planned: PlannedCells,
    results: Mapping[str, Result],
    max_failures: int | None = None,
) -> tuple[Failure, ...]:
    """Return the last `max_failures` failures in the order in which they were read."""
    failed = [cell_id for cell_id, result in results.items() if result.outcome in FAILURES]
    failed.sort(key=lambda cell_id: results[cell_id].order)
    start = 0 if max_failures is None else max(0, len(failed) - max_failures)
    return tuple(
        _describe_failure(folder, planned, cell_id, results[cell_id]) for cell_id in failed[start:]
    )


def _describe_failure(
    folder: SweepFolder, planned: PlannedCells, cell_id: str, result: Result
) -> Failure:
    path = folder.errors / f"{cell_id}.{result.attempt}.txt"
    exists, reason = path.exists(), result.reason
    if reason is None and exists:  # its pack has not ended, so no row has the reason yet
        with suppress(OSError):
            reason = path.read_text(errors="replace").partition("\n")[0]
    label = planned.labels.get(cell_id, cell_id)
    traceback = path if exists else None
    return Failure(cell_id, label, result.outcome, result.attempt, reason, traceback)
