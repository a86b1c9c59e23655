"""Peak memory of this process, from the kernel's high-water mark (Linux)."""

from __future__ import annotations

import ctypes
import gc
import math
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, in MB; NaN if it is unknown.

    `resource.getrusage` does not tell: its `ru_maxrss` includes that of the process that started
    this one.
    """
    if not STATUS.exists():
        return math.nan
    (peak,) = [row for row in STATUS.read_text().splitlines() if row.startswith("VmHWM")]
    return int(peak.split()[1]) / 1024


def reset_peak_memory() -> float:
    """Set the peak of this process to its memory now; return that in MB, NaN if it is unknown."""
    if not CLEAR.exists():
        return math.nan
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # glibc keeps freed memory, which would hide the growth
    CLEAR.write_text("5")
    return peak_memory()
