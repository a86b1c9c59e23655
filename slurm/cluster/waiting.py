"""Waiting for something to become true."""

from __future__ import annotations

import time
from collections.abc import Callable

from .errors import ClusterError


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Ask until the condition holds; ClusterError if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.05)
