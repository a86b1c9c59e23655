"""Time limits that grow with how busy the machine is: they end only what hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

QUIET = 0.3  # seconds that a process takes on a quiet machine that starts and loads NumPy


def slowness() -> float:
    """Return how many times longer things take just now than on a quiet machine, at least 1."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    measured = (time.monotonic() - began) / QUIET
    return max(1.0, measured, os.getloadavg()[0] / (os.cpu_count() or 1))


class Limit:
    """A limit on a wait, of so many seconds on a quiet machine.

    The machine's speed is measured when that time is over, so a wait that is short costs nothing.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = self._granted = seconds
        self._began = time.monotonic()

    def is_over(self) -> bool:
        took = time.monotonic() - self._began
        if took > self._granted:
            self._granted = self._seconds * slowness()
        return took > self._granted


def communicate(process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """Wait for a process's end; return what it printed. A process over the limit is killed."""
    limit = Limit(seconds)
    while True:
        try:
            return process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            if limit.is_over():
                process.kill()
                said = process.communicate()
                raise AssertionError(f"{process.args}: no end in {seconds:g} s\n{said}") from None


def run(words: list[str], seconds: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with a limit."""
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    said = communicate(process, seconds)
    return subprocess.CompletedProcess(words, process.returncode, *said)
