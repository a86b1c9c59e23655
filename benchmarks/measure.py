"""Timing of complete commands, including start-up and shut-down."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fanin.errors import FaninError

ROOT = Path(__file__).resolve().parents[1]
# Environment variables that are removed, because their values would change the speed.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def python(module: str, *arguments: str) -> list[str]:
    """Return the command line of a module of this repository."""
    return [sys.executable, "-m", module, *arguments]


def run(command: Sequence[str]) -> str:
    """Run a command with the default number of threads; return its output.

    Raises
    ------
    FaninError
        The command failed. The message has the last lines of its output.
    """
    process = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    if process.returncode != 0:
        tail = "\n".join((process.stdout + process.stderr).splitlines()[-15:])
        raise FaninError(f"{' '.join(command)}: exit status {process.returncode}\n{tail}")
    return process.stdout


def environment() -> dict[str, str]:
    """Return this process's environment variables, without the numbers of threads."""
    return {key: value for key, value in os.environ.items() if key not in THREADS}


def timed(command: Sequence[str]) -> float:
    """Run a command; return its seconds, including start-up and shut-down."""
    started = time.perf_counter()
    run(command)
    return time.perf_counter() - started
