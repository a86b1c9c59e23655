"""Identity of a process: which one wrote a file, and whether it still runs."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache

import psutil

SAME = 2.0  # seconds between two times of start that are one, as the system gives them to a second


@dataclass(frozen=True)
class ProcessId:
    """A process, known again though its number may be another's by now.

    Attributes
    ----------
    host, pid
        Where it runs, and its number there.
    started
        Seconds after the boot of its machine, which no jump of a clock changes (psutil's
        `create_time` counts from 1970, and so depends on the clock). None: not known.
    """

    host: str
    pid: int
    started: float | None = None

    @classmethod
    def current(cls) -> ProcessId:
        """Return this process's identity."""
        return cls(platform.node(), os.getpid(), _own_start(os.getpid()))

    def is_running(self) -> bool | None:
        """Return True if the process runs; None where it is another host's. A zombie has ended."""
        if self.host != platform.node():
            return None
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return self.started is None or abs(_started(process) - self.started) < SAME
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # another user's
            return True


@cache
def _own_start(pid: int) -> float:
    return _started(psutil.Process(pid))


def _started(process: psutil.Process) -> float:
    return round(process.create_time() - psutil.boot_time(), 2)
