"""One launcher a sweep: who runs it now is written down, and a dead launcher's note is void.

On its own host a launcher is dead when its process is. From another host nobody can tell but by the
note's time, which a living launcher renews. That is the file system's time, of which both ends are
read in one place: no host's own clock is asked.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

from filelock import FileLock

from experiments.atomic_write import atomic_write, writing
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.process import ProcessId
from fanin.errors import FaninError

BEAT_EVERY = 5.0  # seconds between two renewals of the note
FRESH = 60.0  # seconds after which a note of another host that wasn't renewed is void


@dataclass
class SweepLock:
    """A sweep held by this process."""

    note: Path
    launcher: ProcessId
    _last: float = field(default_factory=time.monotonic)

    def heartbeat(self) -> None:
        """Renew the note, where that is due; to be called far more often than `FRESH`.

        Raises
        ------
        FaninError
            A launcher on another host has taken the sweep over, because this one seemed dead.
        """
        if time.monotonic() - self._last < BEAT_EVERY:
            return
        self._last = time.monotonic()
        there = read_launcher(self.note)
        if there == self.launcher:
            with writing(self.note), suppress(FileNotFoundError):
                os.utime(self.note)
        elif there is not None:
            raise FaninError(
                f"{self.note}: process {there.pid} on {there.host} has taken this sweep over, as "
                f"nothing was heard from here for {FRESH:.0f} s; what was finished is kept"
            )


@contextmanager
def acquire_sweep_lock(folder: SweepFolder) -> Iterator[SweepLock]:
    """Hold the sweep for this process.

    Yields
    ------
    SweepLock
        Its `heartbeat` is to be called now and then.

    Raises
    ------
    FaninError
        Another launcher is at work on it.
    """
    here = ProcessId.current()
    with writing(folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
    # The lock is for two that start at once, and held only while looking and writing. Where file
    # systems know no such locks, the journals still keep the two apart.
    with writing(folder.launcher), FileLock(folder.root / ".launcher.lock"):
        other = read_launcher(folder.launcher)
        if other is not None and other != here:
            _refuse_if_alive(folder, other)
        atomic_write(folder.launcher, json.dumps(asdict(here)).encode())
    try:
        yield SweepLock(folder.launcher, here)
    finally:
        if read_launcher(folder.launcher) == here:
            folder.launcher.unlink(missing_ok=True)


def _refuse_if_alive(folder: SweepFolder, other: ProcessId) -> None:
    alive = other.is_running()
    if alive:
        raise FaninError(
            f"{folder.root}: process {other.pid} is running this sweep; "
            "wait for it, or stop it: Ctrl-C there, or python -m experiments.cancel NAME"
        )
    if alive is None and _is_fresh(folder.launcher):
        raise FaninError(
            f"{folder.root}: process {other.pid} on {other.host} is running this sweep; wait for "
            f"it, or stop it there: {FRESH:.0f} s after its end the same command goes on here"
        )


def _is_fresh(note: Path) -> bool:
    """Return True if a note was renewed of late, by the clock that stamps files there.

    A note from the future is one from before that clock was put back.
    """
    with NamedTemporaryFile(dir=note.parent, prefix=".now.") as stamped:
        os.utime(stamped.name)
        return abs(os.stat(stamped.name).st_mtime - note.stat().st_mtime) < FRESH


def read_launcher(path: Path) -> ProcessId | None:
    """Read a launcher's note; None where there is none, or none that can be understood."""
    try:
        note = json.loads(path.read_text())
        host, pid = str(note["host"]), int(note["pid"])
        started = note.get("started")
        return ProcessId(host, pid, None if started is None else float(started))
    except (OSError, ValueError, TypeError, KeyError):
        return None
