"""Supervision of a worker by its launcher: time limits, and workers that are gone.

All of it from the journals, and times by this process's own monotonic clock.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from experiments.sweep.store.journal import Event, Writer, read_events, read_writer
from experiments.sweep.worker.finalize import update_running

GRACE = 2.0  # seconds


@dataclass
class PackWatch:
    """Follows one pack's journal.

    Parameters
    ----------
    journal
        It may not be there yet, or no longer.
    cell_seconds
        Time limit of a cell; cells that run together have it together. None: no limit.
    """

    journal: Path
    cell_seconds: float | None
    timed_out: bool = False
    _writer: Writer | None = None
    _offset: int = 0
    _at_work: dict[str, int] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)
    _missed: float | None = None

    def poll(self) -> None:
        """Read on; kill the worker where its cell has had its time."""
        try:
            if self._writer is None:
                self._writer = read_writer(self.journal)
            events, self._offset = read_events(self.journal, self._offset)
        except FileNotFoundError:
            return
        update_running(self._at_work, events)
        if any(map(_restarts, events)):
            self._since = time.monotonic()
        if self.cell_seconds is None or not self._at_work or self._writer is None:
            return
        allowed = self.cell_seconds * len(self._at_work)
        if not self.timed_out and time.monotonic() - self._since > allowed:
            self.timed_out = True
            if self._writer.process.is_running():
                with suppress(ProcessLookupError):
                    os.kill(self._writer.process.pid, signal.SIGKILL)

    def is_orphaned(self) -> bool:
        """Return True if the worker has been gone for a while though its journal is there.

        One that leaves with exit code 0 is not missed by the pool; of the others the pool tells
        how they ended, and needs a moment for it.
        """
        if self._writer is None or not self.journal.exists():
            return False
        if self._writer.process.is_running() is not False:
            return False
        if self._missed is None:
            self._missed = time.monotonic()
        return time.monotonic() - self._missed > GRACE


def _restarts(event: Event) -> bool:
    """Return True if a cell's time counts from here: when it begins, and when its data is there.

    The first cell of a worker loads the data for all.
    """
    return event.kind in ("start", "done") or (event.kind == "at" and float(event.value) == 0)
