"""Process that workers are forked from. Starting it does not import torch."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker

from experiments.sweep.interrupts import defer_interrupts


def start_server() -> None:
    """Start the fork server unless it runs; it imports the code while this process plans.

    The resource tracker starts first, because Python unblocks SIGINT when it starts the tracker. If
    the fork server started it, SIGINT would be unblocked within `defer_interrupts`. The tracker
    itself ignores SIGINT and SIGTERM; it inherits a mask that blocks SIGHUP.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    with defer_interrupts():
        multiprocessing.set_forkserver_preload(["experiments.sweep.worker.preload"])
        forkserver.ensure_running()
