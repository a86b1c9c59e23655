"""Waiting for something to become true."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from .errors import ClusterError


def scaled(seconds: float) -> float:
    """Return a time limit for a machine as busy as this one is: more where processes queue."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Ask until the condition holds; ClusterError if it does not in time."""
    deadline = time.monotonic() + scaled(seconds)
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {scaled(seconds):.0f} s in vain: {what}")
        time.sleep(0.05)
