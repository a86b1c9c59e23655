"""The process that launched a sweep, and whether it is still running."""

from __future__ import annotations

import time
from dataclasses import dataclass

from experiments.sweep.store.lock import STALE_SECONDS, read_launcher
from experiments.sweep.store.paths import SweepFolder


@dataclass(frozen=True)
class Launcher:
    """Process that launched a sweep.

    Attributes
    ----------
    alive
        None if it is on another host, where this process cannot check it.
    heartbeat_age
        Time since its last heartbeat (seconds).
    """

    host: str
    pid: int
    alive: bool | None
    heartbeat_age: float

    @property
    def is_active(self) -> bool:
        """True if it is running or, on another host, has sent a recent heartbeat."""
        return self.heartbeat_age < STALE_SECONDS if self.alive is None else self.alive


def find_launcher(folder: SweepFolder) -> Launcher | None:
    """Return the launcher named in the sweep's lock file; None if there is no lock file."""
    record = read_launcher(folder.launcher)
    if record is None:
        return None
    try:
        heartbeat_age = age(folder.launcher.stat().st_mtime)
    except FileNotFoundError:  # it has just ended
        return None
    return Launcher(record.host, record.pid, record.is_running(), heartbeat_age)


def age(modified: float) -> float:
    """Return the seconds since a modification time; at least 0, as clocks may be set back."""
    return max(0.0, time.time() - modified)
