"""The process that workers are forked from; torch is not needed to start it."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver, resource_tracker

from experiments.sweep.interrupts import interrupts_held


def start_server() -> None:
    """Start it, unless it runs: it loads the code while this process does, and plans."""
    # Its own start would let interrupts in again in the middle of `interrupts_held`.
    resource_tracker.ensure_running()
    with interrupts_held():
        multiprocessing.set_forkserver_preload(["experiments.sweep.preload"])
        forkserver.ensure_running()
