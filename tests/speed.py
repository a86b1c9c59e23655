"""Scaling of the time limits of tests by the speed of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

IDLE_SECONDS = 1.0  # upper bound for `python -m experiments.run --help` on an idle machine
ROOT = Path(__file__).parents[1]


@cache
def slowness() -> float:
    """Return the time of a short command relative to an idle machine, at least 1."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "experiments.run", "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        check=True,
    )
    return max(1.0, (time.monotonic() - started) / IDLE_SECONDS)


class Deadline:
    """A time limit in seconds; it is multiplied by `slowness()` when it has passed."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._started = seconds, time.monotonic()

    @property
    def remaining(self) -> float:
        """Remaining seconds; 0 or negative after the deadline."""
        elapsed = time.monotonic() - self._started
        if elapsed < self._seconds:
            return self._seconds - elapsed
        return self._seconds * slowness() - elapsed
