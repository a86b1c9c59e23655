"""The sweep runner: run the cells of a grid and store their measurements.

`from experiments import run_sweep` runs a sweep from Python.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.python_api import run_sweep as run_sweep

# Without this setting the last bits of a matrix product depend on the memory addresses of its
# factors, so a cell's result would depend on the other cells in its stack. MKL reads the variable
# once, at its first call in a process.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__all__ = ["run_sweep"]


def __getattr__(name: str) -> Any:
    if name != "run_sweep":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("experiments.python_api").run_sweep
