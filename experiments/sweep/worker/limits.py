"""A worker process: one thread, deterministic, limited in time and memory."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from experiments.sweep.store.process import ProcessId

GIB = 1 << 30
CGROUP = Path("/sys/fs/cgroup/memory.max")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start_worker(launcher: ProcessId, memory: int | None) -> None:
    """Prepare a worker process, which ends with its launcher and may allocate `memory` bytes."""
    if sys.platform == "linux":
        # Its parent, which forks the workers, ends when the launcher does, in whatever way.
        die_with_parent()
        if launcher.is_running() is False:  # it died before the line above
            os._exit(1)
    if memory is not None:
        limit_memory(memory)
    prepare_torch()


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def prepare_torch() -> None:
    """Set one thread and deterministic algorithms: the same cell gives the same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, a second sooner
    # Deterministic mode also fills every new tensor, for the sake of code that reads what it never
    # wrote; none here does, and it doubles the time of small networks.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class CellTimeout(BaseException):
    """A cell ran longer than it may. No `Exception`, so that a cell's own code doesn't catch it."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `CellTimeout` in this thread's Python code after so many seconds.

    What hangs within a library's C code is not interrupted; a worker process can be killed, this
    one not.
    """
    if seconds is None:
        yield
        return

    def over(*_: Any) -> None:
        raise CellTimeout(f"ran longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def limit_memory(size: int) -> None:
    """Let this process allocate no more than `size` bytes: what asks for more gets an error.

    On what it allocates itself (RLIMIT_DATA), not on what it maps, as libraries and data files.
    """
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def machine_memory() -> int:
    """Return the bytes of memory that processes here share: the machine's, or the container's."""
    physical = int(psutil.virtual_memory().total)
    try:
        return min(physical, int(CGROUP.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit (`max`)
        return physical


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that memory, of the host or of a device, did not suffice.

    Examples
    --------
    >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("memory"))
    (True, False)
    >>> is_out_of_memory(OSError(errno.ENOMEM, "no room"))
    True
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, ImportError):  # of a compiled module that found no room
        return "failed to map segment" in str(error) or os.strerror(errno.ENOMEM) in str(error)
    # torch's allocator for CPUs has no error class of its own, nor has what fails in C++.
    text = str(error) if isinstance(error, RuntimeError) else ""
    return "DefaultCPUAllocator" in text or "std::bad_alloc" in text
