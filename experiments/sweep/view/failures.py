"""Cells that came to a bad end: which, why, and where the traceback is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import FAILED
from experiments.sweep.view.planned import Planned
from experiments.sweep.view.seen import Result

FAILURES = (*FAILED, "killed", "node_fail")  # whoever cancels a cell knows why


@dataclass(frozen=True)
class Failure:
    """A cell that left no measurements; `traceback` is None where nobody could write one."""

    cell_id: str
    label: str
    outcome: str
    attempt: int
    reason: str | None
    traceback: Path | None

    @property
    def said(self) -> str:
        """The reason's first line."""
        return (self.reason or "").partition("\n")[0]


def failures(
    folder: SweepFolder, planned: Planned, results: Mapping[str, Result], last: int | None = None
) -> tuple[Failure, ...]:
    """The cells that came to a bad end, in the order in which that was seen.

    Parameters
    ----------
    last
        How many, from the end; None: all.
    """
    bad = [cell for cell, result in results.items() if result.outcome in FAILURES]
    bad.sort(key=lambda cell: results[cell].order)
    start = 0 if last is None else max(0, len(bad) - last)
    return tuple(_failure(folder, planned, cell, results[cell]) for cell in bad[start:])


def _failure(folder: SweepFolder, planned: Planned, cell: str, result: Result) -> Failure:
    path = folder.errors / f"{cell}.{result.attempt}.txt"
    there, reason = path.exists(), result.reason
    if reason is None and there:  # its pack has not ended, and no row says it yet
        with suppress(OSError):
            reason = path.read_text(errors="replace").partition("\n")[0]
    label = planned.labels.get(cell, cell)
    return Failure(cell, label, result.outcome, result.attempt, reason, path if there else None)
