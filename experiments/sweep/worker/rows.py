"""The `cells` row of a task: what ran, how it ended, and where it came from."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from experiments.config.identity import flatten
from experiments.result import CellResult
from experiments.sweep.provenance import code_version
from experiments.sweep.types import Task

MESSAGE = 2000  # characters of an error's message that a table keeps; the traceback's file has all


def failed(task: Task, outcome: str, reason: str) -> CellResult:
    """The row of a cell that left no result."""
    row = dict(flatten(task.config)) | {
        "outcome": outcome,
        "outcome_step": None,
        "outcome_tensor": None,
        "outcome_reason": reason[:MESSAGE],
        "test_accuracy": float("nan"),
        "test_loss": float("nan"),
        "train_loss": float("nan"),
        "seconds": float("nan"),
    }
    return CellResult(row, {})


def identified(
    task: Task,
    row: dict[str, Any],
    device: str | None,
    engine: str | None,
    code: str | None = None,
) -> dict[str, Any]:
    """A result's row with its cell, the options it was made of, and where it ran.

    `code` where that isn't the code of this process.
    """
    where = {
        "engine": engine,
        "attempt": task.attempt,
        "host": platform.node(),
        "device": device,
        "threads": torch.get_num_threads(),
        "code": code or code_version(),
        **versions("python", "torch", "numpy"),
    }
    return {"cell_id": task.cell_id, **task.choices, **row, **where}


@cache
def versions(*names: str) -> dict[str, str]:
    """Versions of Python and of libraries."""
    return {
        name: platform.python_version() if name == "python" else version(name) for name in names
    }
