"""Time limits that are scaled by the load of the machine, so that they only end what hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

QUIET_SECONDS = 0.3  # to start Python and import NumPy on a quiet machine


def slowness() -> float:
    """Return how many times slower the machine is now than when it is quiet, at least 1."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    measured = (time.monotonic() - start) / QUIET_SECONDS
    return max(1.0, measured, os.getloadavg()[0] / (os.cpu_count() or 1))


class Limit:
    """Time limit of a wait, given in seconds on a quiet machine.

    The speed of the machine is measured only when this time is over, so a short wait costs nothing.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = self._limit = seconds
        self._start = time.monotonic()

    def is_over(self) -> bool:
        elapsed = time.monotonic() - self._start
        if elapsed > self._limit:
            self._limit = self._seconds * slowness()
        return elapsed > self._limit


def communicate(process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """Wait until a process ends and return its output; kill it when the limit is over."""
    limit = Limit(seconds)
    while True:
        try:
            return process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            if limit.is_over():
                process.kill()
                output = process.communicate()
                message = f"{process.args}: still running after {seconds:g} s\n{output}"
                raise AssertionError(message) from None


def run(command: list[str], seconds: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command with a time limit."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    output = communicate(process, seconds)
    return subprocess.CompletedProcess(command, process.returncode, *output)
