"""The process that workers are forked from; torch is not needed to start it."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker

from experiments.sweep.interrupts import defer_interrupts


def start_server() -> None:
    """Start it, unless it runs: it loads the code while this process does, and plans."""
    # Its own start would let interrupts in again in the middle of `defer_interrupts`; it ignores
    # all but the end of the terminal by itself.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    with defer_interrupts():
        multiprocessing.set_forkserver_preload(["experiments.sweep.worker.preload"])
        forkserver.ensure_running()
