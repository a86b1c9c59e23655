"""What a worker does with a pack: run each cell, commit each result."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.cell import CellResult, run_cell
from experiments.config.identity import flatten
from experiments.sweep.plan import Pack, Task
from experiments.sweep.store.frozen import code_version
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.store.paths import SweepFolder, write_whole
from experiments.training.loop import OnLook

PR_SET_PDEATHSIG = 1  # linux/prctl.h
BEAT_EVERY = 1.0  # seconds


def run_pack(
    root: str, stem: str, pack: Pack, device: str, tick: Callable[[], None] = lambda: None
) -> None:
    """Run a pack's cells one after the other, then turn its journal into tables.

    Parameters
    ----------
    root
        The sweep's folder.
    stem
        Name of this pack's journal and of its parts; unique.
    pack, device
        What to run, and where.
    tick
        Called after each cell.
    """
    folder = SweepFolder(Path(root))
    journal = Journal(folder.journals / f"{stem}.journal")
    try:
        for task in pack.tasks:
            if not journal.held():
                return
            journal.start(task.cell_id, task.attempt)
            beat = _heartbeat(journal, task, tick)
            journal.done(run_task(folder, task, torch.device(device), beat))
            tick()
    finally:
        journal.close()
    if journal.held():
        commit_journal(folder, journal.path)


def _heartbeat(journal: Journal, task: Task, tick: Callable[[], None]) -> OnLook:
    """Says now and then in the journal how far a cell is."""
    last = time.monotonic()

    def beat(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= BEAT_EVERY:
            last = time.monotonic()
            journal.beat(task.cell_id, done, total)
            tick()

    return beat


def run_task(folder: SweepFolder, task: Task, device: torch.device, beat: OnLook) -> CellResult:
    """Run one cell; whatever goes wrong becomes its outcome, with the traceback in a file."""
    began = time.perf_counter()
    try:
        result = run_cell(task.config, device, beat)
    except (Exception, SystemExit) as error:  # an init scheme of the user's may do anything
        path = folder.errors / f"{task.cell_id}.{task.attempt}.txt"
        write_whole(path, traceback.format_exc().encode(errors="backslashreplace"))
        oom = isinstance(error, MemoryError | torch.OutOfMemoryError)
        reason = f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()
        result = failed(task, "oom" if oom else "error", reason)
        result.row["seconds"] = time.perf_counter() - began
    return replace(result, row=identified(task, result.row, str(device)))


def failed(task: Task, outcome: str, reason: str) -> CellResult:
    """The row of a cell that left no result."""
    row = dict(flatten(task.config)) | {
        "outcome": outcome,
        "outcome_step": None,
        "outcome_tensor": None,
        "outcome_reason": reason,
        "test_accuracy": float("nan"),
        "test_loss": float("nan"),
        "train_loss": float("nan"),
        "seconds": float("nan"),
    }
    return CellResult(row, {})


def identified(task: Task, row: dict[str, Any], device: str) -> dict[str, Any]:
    """A result's row with its cell, the options it was made of, and where it ran."""
    where = {
        "engine": "serial",
        "attempt": task.attempt,
        "host": platform.node(),
        "device": device,
        "code": code_version(),
    }
    return {"cell_id": task.cell_id, **task.choices, **row, **where}


def start_worker(launcher: int) -> None:
    """Prepare a worker process: one thread, deterministic, and no life after its launcher's."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # it died before the line above
            os._exit(1)
    prepare_torch()


def prepare_torch() -> None:
    """One thread and deterministic algorithms: the same cell gives the same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode also fills every new tensor, for the sake of code that reads what it never
    # wrote; none here does, and it doubles the time of small networks.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
