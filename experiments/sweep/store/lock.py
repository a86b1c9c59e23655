"""Lock of a sweep: at most one launcher runs it, and the lock of a dead launcher is void.

On its own host, a launcher counts as dead if its process has ended. From another host, it counts as
dead if it has not renewed its lock file for a while. The time of the last renewal and the current
time both come from the file system, so the clocks of the hosts need not agree.
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
from fanin.commands import command_line
from fanin.errors import FaninError

RENEW_INTERVAL = 5.0  # seconds between two renewals of the lock file
STALE_SECONDS = 60.0  # age of another host's lock file after which it is void


@dataclass
class SweepLock:
    """Lock of a sweep, held by this process."""

    path: Path
    launcher: ProcessId
    _renewed: float = field(default_factory=time.monotonic)

    def heartbeat(self) -> None:
        """Renew the lock file if it is due. Call this far more often than `STALE_SECONDS`.

        Raises
        ------
        FaninError
            A launcher on another host has taken the sweep over, because this one seemed dead.
        """
        if time.monotonic() - self._renewed < RENEW_INTERVAL:
            return
        self._renewed = time.monotonic()
        holder = read_launcher(self.path)
        if holder == self.launcher:
            with writing(self.path), suppress(FileNotFoundError):
                os.utime(self.path)
        elif holder is not None:
            raise FaninError(
                f"{self.path}: process {holder.pid} on {holder.host} has taken over this sweep, "
                f"because this process did not renew its lock for {STALE_SECONDS:.0f} s. Finished "
                "cells are kept."
            )


@contextmanager
def acquire_sweep_lock(folder: SweepFolder) -> Iterator[SweepLock]:
    """Lock the sweep for this process.

    Yields
    ------
    SweepLock
        Call its `heartbeat` regularly.

    Raises
    ------
    FaninError
        Another launcher runs the sweep.
    """
    this_process = ProcessId.current()
    with writing(folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
    # The file lock makes two launchers that start at once read and write the launcher file one
    # after the other. On file systems without such locks, at most one of them can commit each
    # journal.
    with writing(folder.launcher), FileLock(folder.root / ".launcher.lock"):
        holder = read_launcher(folder.launcher)
        if holder is not None and holder != this_process:
            _refuse_if_running(folder, holder)
        atomic_write(folder.launcher, json.dumps(asdict(this_process)).encode())
    try:
        yield SweepLock(folder.launcher, this_process)
    finally:
        if read_launcher(folder.launcher) == this_process:
            folder.launcher.unlink(missing_ok=True)


def _refuse_if_running(folder: SweepFolder, holder: ProcessId) -> None:
    running = holder.is_running()
    if running:
        raise FaninError(
            f"{folder.root}: process {holder.pid} is running this sweep. Wait for it, or stop it: "
            f"{command_line('cancel', folder.argument)}"
        )
    if running is None and _is_recent(folder.launcher):
        raise FaninError(
            f"{folder.root}: process {holder.pid} on {holder.host} is running this sweep. Wait for "
            f"it, or stop it there; run the same command here {STALE_SECONDS:.0f} s after it ended."
        )


def _is_recent(path: Path) -> bool:
    """Return True if a file was written or renewed within `STALE_SECONDS`.

    The current time comes from a new file, so it is the file system's. A file from the future was
    written before that clock was set back.
    """
    with NamedTemporaryFile(dir=path.parent, prefix=".now.") as stamped:
        os.utime(stamped.name)
        return abs(os.stat(stamped.name).st_mtime - path.stat().st_mtime) < STALE_SECONDS


def read_launcher(path: Path) -> ProcessId | None:
    """Read a lock file; None if it is missing or unreadable."""
    try:
        content = json.loads(path.read_text())
        host, pid = str(content["host"]), int(content["pid"])
        started = content.get("started")
        return ProcessId(host, pid, None if started is None else float(started))
    except (OSError, ValueError, TypeError, KeyError):
        return None
