"""Speed of the machine, by which time limits in tests are scaled: a busy machine has more time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

QUIET = 1.0  # seconds that `python -m experiments.run --help` takes at most on an idle machine
ROOT = Path(__file__).parents[1]


@cache
def slowness() -> float:
    """Return how many times longer than on an idle machine a short command takes, at least 1."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "experiments.run", "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        check=True,
    )
    return max(1.0, (time.monotonic() - began) / QUIET)


class Deadline:
    """An end to waiting, so many seconds from now; measured and scaled only when that is over."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._began = seconds, time.monotonic()

    @property
    def left(self) -> float:
        """Seconds that are left; not more than 0 when time is up."""
        taken = time.monotonic() - self._began
        if taken < self._seconds:
            return self._seconds - taken
        return self._seconds * slowness() - taken
