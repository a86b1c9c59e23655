"""Whole commands, timed from outside, so that start-up and shut-down count."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fanin.errors import FaninError

ROOT = Path(__file__).resolve().parents[1]
# What a shell may have set for one program would decide how fast another one is.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Timing:
    """Durations of repeated runs of the same thing."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.seconds)


def python(module: str, *words: str) -> list[str]:
    """The command line of a module of this repository."""
    return [sys.executable, "-m", module, *words]


def run(command: Sequence[str]) -> str:
    """Run a command with the machine's default number of threads; return what it printed.

    Raises
    ------
    FaninError
        It failed; the end of what it printed is shown.
    """
    environment = {key: value for key, value in os.environ.items() if key not in THREADS}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise FaninError(f"{' '.join(command)}: exit status {done.returncode}\n{tail}")
    return done.stdout


def timed(action: Callable[[Path], object], places: Sequence[Path]) -> Timing:
    """Do something once for each place, a folder that is not there yet."""
    seconds = []
    for place in places:
        began = time.perf_counter()
        action(place)
        seconds.append(time.perf_counter() - began)
    return Timing(tuple(seconds))
