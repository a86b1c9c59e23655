"""Identity of a process: which process wrote a file, and whether it still runs."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache

import psutil

START_TOLERANCE = 2.0  # seconds; the system reports start times to about a second


@dataclass(frozen=True)
class ProcessId:
    """Identity of a process that stays unique when the system reuses its number.

    Attributes
    ----------
    host, pid
        Host name, and process id on that host.
    started
        Start time in seconds after the boot of the host, which clock changes don't affect
        (psutil's `create_time` counts from 1970). None: unknown.
    """

    host: str
    pid: int
    started: float | None = None

    @classmethod
    def current(cls) -> ProcessId:
        """Return the identity of this process."""
        return cls(platform.node(), os.getpid(), _start_of_this_process(os.getpid()))

    def is_running(self) -> bool | None:
        """Return True if the process runs (a zombie does not); None if it is on another host."""
        if self.host != platform.node():
            return None
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if self.started is None:
                return True
            return abs(_start_time(process) - self.started) < START_TOLERANCE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # another user's process
            return True


@cache
def _start_of_this_process(pid: int) -> float:
    return _start_time(psutil.Process(pid))


def _start_time(process: psutil.Process) -> float:
    return round(process.create_time() - psutil.boot_time(), 2)
