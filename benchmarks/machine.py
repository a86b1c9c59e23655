"""Description of the machine and the versions of a measurement."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from experiments.sweep.provenance import code_version

LIBRARIES = (
    *("torch", "hydra-core", "hydra-joblib-launcher", "joblib", "submitit"),
    *("pyarrow", "pandas", "numpy"),
)


def machine() -> str:
    """Return cores, processor and system as one line."""
    return f"{cores()} cores of {_processor()}, {platform.system()} {platform.release()}"


def versions() -> str:
    """Return the versions of Python, of this code, and of the main libraries as one line."""
    libraries = [f"{library} {_version(library)}" for library in LIBRARIES]
    return ", ".join([f"python {platform.python_version()}", f"fanin {code_version()}", *libraries])


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
