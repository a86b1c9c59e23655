"""A process that runs cells: one thread, deterministic, and no life after its launcher's."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import torch

from experiments.sweep.store.process import runs
from experiments.sweep.worker.limits import limit_memory

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start_worker(host: str, launcher: int, born: str | None, memory: int | None) -> None:
    """Prepare a worker process.

    Parameters
    ----------
    host, launcher, born
        The launcher's host, process id, and when it started.
    memory
        Bytes that this process may allocate; None: no limit.
    """
    if sys.platform == "linux":
        # Its parent, which forks the workers, ends when the launcher does, in whatever way.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if runs(host, launcher, born) is False:  # it died before the line above
            os._exit(1)
    if memory is not None:
        limit_memory(memory)
    prepare_torch()


def prepare_torch() -> None:
    """One thread and deterministic algorithms: the same cell gives the same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, a second sooner
    # Deterministic mode also fills every new tensor, for the sake of code that reads what it never
    # wrote; none here does, and it doubles the time of small networks.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
