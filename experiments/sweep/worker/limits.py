"""Limits of a worker process: one thread, deterministic, bounded time and memory."""

from __future__ import annotations

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
from experiments.sweep.worker.parent_death import die_with_parent

CGROUP = Path("/sys/fs/cgroup/memory.max")


def start_worker(launcher: ProcessId, memory: int | None) -> None:
    """Set up a worker process that ends with its launcher and may allocate `memory` bytes."""
    die_with_parent()  # the parent is the fork server, which ends when the launcher ends
    if sys.platform == "linux" and launcher.is_running() is False:  # before die_with_parent()
        os._exit(1)
    if memory is not None:
        limit_memory(memory)
    prepare_torch()


def prepare_torch() -> None:
    """Use one thread and deterministic algorithms, so that a cell repeats bit-identically."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    # Same effect as `use_deterministic_algorithms(True)`, which takes a second longer.
    torch.set_deterministic_debug_mode("error")
    # Deterministic mode also fills every new tensor, for code that reads uninitialized memory. No
    # code here does, and filling doubles the time of small networks.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class CellTimeout(BaseException):
    """A cell exceeded its time limit. Not an `Exception`, which the cell's code may catch."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `CellTimeout` in this thread's Python code after a number of seconds.

    C code of a library is not interrupted; only killing the process stops that.
    """
    if seconds is None:
        yield
        return

    def raise_timeout(*_: Any) -> None:
        raise CellTimeout(f"ran longer than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, raise_timeout)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def limit_memory(size: int) -> None:
    """Make allocations of this process fail beyond `size` bytes.

    The limit counts allocated memory (RLIMIT_DATA), not mapped libraries and data files.
    """
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def machine_memory() -> int:
    """Return the memory of this machine or container in bytes."""
    physical = int(psutil.virtual_memory().total)
    try:
        return min(physical, int(CGROUP.read_text()))
    except (OSError, ValueError):  # not in a container, or no limit (`max`)
        return physical


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error means that the host or a device ran out of memory.

    Examples
    --------
    >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("memory"))
    (True, False)
    >>> is_out_of_memory(OSError(errno.ENOMEM, "no memory"))
    True
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, ImportError):  # a compiled module could not be mapped
        return "failed to map segment" in str(error) or os.strerror(errno.ENOMEM) in str(error)
    # torch's CPU allocator and C++ code raise a plain RuntimeError.
    text = str(error) if isinstance(error, RuntimeError) else ""
    return "DefaultCPUAllocator" in text or "std::bad_alloc" in text
