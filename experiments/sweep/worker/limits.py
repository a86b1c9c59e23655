"""Limits of time and memory, and how to tell that one was met."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

GIB = 1 << 30
CGROUP = Path("/sys/fs/cgroup/memory.max")


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
    """Bytes of memory that processes here share: the machine's, or the container's."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(CGROUP.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit (`max`)
        return physical


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the host or of a device, did not suffice.

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
    said = str(error) if isinstance(error, RuntimeError) else ""
    return "DefaultCPUAllocator" in said or "std::bad_alloc" in said
