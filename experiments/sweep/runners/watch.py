"""Supervision of a worker by its launcher: time limits, and workers that ended unnoticed.

All information comes from the journal, and all times from this process's monotonic clock.
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

GRACE_SECONDS = 2.0


@dataclass
class PackWatch:
    """Watcher of the worker that runs a pack, by the pack's journal.

    Parameters
    ----------
    journal
        Path of the journal, which need not exist yet.
    cell_seconds
        Time limit of a cell; cells that run together share the sum of their limits. None: no limit.
    """

    journal: Path
    cell_seconds: float | None
    timed_out: bool = False
    _writer: Writer | None = None
    _offset: int = 0
    _running: dict[str, int] = field(default_factory=dict)
    _cell_started: float = field(default_factory=time.monotonic)
    _exit_noticed: float | None = None

    def poll(self) -> None:
        """Read new events, and kill the worker if its cell has exceeded the time limit."""
        try:
            if self._writer is None:
                self._writer = read_writer(self.journal)
            events, self._offset = read_events(self.journal, self._offset)
        except FileNotFoundError:
            return
        update_running(self._running, events)
        if any(map(_restarts_clock, events)):
            self._cell_started = time.monotonic()
        if self.cell_seconds is None or not self._running or self._writer is None:
            return
        limit = self.cell_seconds * len(self._running)
        if not self.timed_out and time.monotonic() - self._cell_started > limit:
            self.timed_out = True
            if self._writer.process.is_running():
                with suppress(ProcessLookupError):
                    os.kill(self._writer.process.pid, signal.SIGKILL)

    def is_orphaned(self) -> bool:
        """Return True if the worker ended a while ago but its journal still exists.

        The pool does not notice a worker that exits with code 0. It reports other exits itself,
        which takes a moment.
        """
        if self._writer is None or not self.journal.exists():
            return False
        if self._writer.process.is_running() is not False:
            return False
        if self._exit_noticed is None:
            self._exit_noticed = time.monotonic()
        return time.monotonic() - self._exit_noticed > GRACE_SECONDS


def _restarts_clock(event: Event) -> bool:
    """Return True if the time of the running cells counts from this event.

    These events are the start and the end of a cell, and the end of loading the data, which the
    first cell of a worker does for all cells.
    """
    return event.kind in ("start", "done") or (event.kind == "at" and float(event.value) == 0)
