"""Running a pack: its cells one by one or as a stack; a journal commits each result."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import torch

from experiments.atomic_write import atomic_write
from experiments.cell import run_cell
from experiments.result import CellResult
from experiments.stack import FAILURES, run_stack
from experiments.sweep.provenance import code_version, user_modules
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.types import Heartbeat, PackedCell, PackJob
from experiments.sweep.worker.finalize import complete_row, failed_result
from experiments.sweep.worker.limits import CellTimeout, is_out_of_memory, time_limit
from experiments.training.checkpoint import Checkpointer, Stopped
from experiments.training.loop import OnProgress
from experiments.user_code import format_traceback
from fanin.errors import FaninError

PROGRESS_INTERVAL = 1.0  # seconds between two records of a cell's progress
KEEP_CHECKPOINT = ("timeout", "oom")  # a retry with more time or memory may resume
EXIT_OOM = 75  # exit status of a worker that ran out of memory (EX_TEMPFAIL)

Checkpointers = Mapping[str, Checkpointer | None]  # by cell id


def run_pack(job: PackJob, heartbeat: Heartbeat = lambda: None) -> None:
    """Run a pack's cells, then turn its journal into tables.

    If the job has `exit_on_oom`, a process that ran out of memory ends with exit status `EXIT_OOM`.
    """
    try:
        out_of_memory = _run_pack(job, heartbeat)
    except MemoryError:  # too little memory even to record the result
        if not job.exit_on_oom:
            raise
        out_of_memory = True
    if out_of_memory:
        os._exit(EXIT_OOM)


def _run_pack(job: PackJob, heartbeat: Heartbeat) -> bool:
    """Run a pack; return True if memory ran out and the launcher must run the remaining cells."""
    pack = job.pack
    if job.should_stop():
        return False
    about = {"device": job.device, "threads": torch.get_num_threads(), "engine": pack.engine}
    journal = Journal(job.journal, about, new_folder=job.lease is None)
    try:
        noted = {job.code}

        def note_new_code(code: str) -> str:
            if code not in noted:
                journal.note(
                    f"cells ran code version {code}; the sweep was launched with {job.code}"
                )
                noted.add(code)
            return code

        note_new_code(code_version())
        run = _stacked if pack.engine == "stacked" else _serial
        checkpointers = {cell.cell_id: _checkpointer(job, cell) for cell in pack.cells}
        results = run(job, journal, checkpointers, heartbeat)
        for n_ended, (cell, result) in enumerate(results, start=1):
            if not journal.is_owned():
                return False
            code = note_new_code(_code_of_cell(job, cell))
            row = complete_row(cell, result.row, job.device, pack.engine, code)
            out_of_memory = job.exit_on_oom and row["outcome"] == "oom"
            if out_of_memory and pack.engine == "stacked" and n_ended < len(pack.cells):
                return True  # any of the cells may be the cause: each runs again alone
            journal.done(replace(result, row=row))
            _finish_checkpoint(checkpointers[cell.cell_id], row["outcome"], journal)
            heartbeat()
            if out_of_memory:
                return True
    finally:
        journal.close()
    commit_journal(job.folder, journal.path)
    return False


def _code_of_cell(job: PackJob, cell: PackedCell) -> str:
    """Return the code version that ran a cell, and user modules that changed since launch."""
    modules = user_modules([cell.config]).items()
    changed = [
        f"+{name}:{digest}" for name, digest in modules if job.modules.get(name, digest) != digest
    ]
    return code_version() + "".join(changed)


def _serial(
    job: PackJob, journal: Journal, checkpointers: Checkpointers, heartbeat: Heartbeat
) -> Iterator[tuple[PackedCell, CellResult]]:
    for cell in job.pack.cells:
        if not journal.is_owned() or job.should_stop():
            return
        journal.start(cell.cell_id, cell.attempt)
        started = time.perf_counter()
        try:
            with time_limit(job.cell_seconds):
                device = torch.device(job.device)
                progress = _progress(journal, cell, heartbeat)
                result = run_cell(cell.config, device, progress, checkpointers[cell.cell_id])
        except Stopped:
            return
        except (*FAILURES, CellTimeout) as error:
            result = _result_of_error(job, cell, error)
            result.row["seconds"] = time.perf_counter() - started
        yield cell, result


def _stacked(
    job: PackJob, journal: Journal, checkpointers: Checkpointers, heartbeat: Heartbeat
) -> Iterator[tuple[PackedCell, CellResult]]:
    cells = job.pack.cells
    for cell in cells:
        journal.start(cell.cell_id, cell.attempt)
    configs = [cell.config for cell in cells]
    progress = _progress(journal, cells[0], heartbeat)
    used = [c for c in checkpointers.values() if c is not None]  # either all cells or none
    try:
        for index, result in run_stack(configs, torch.device(job.device), progress, used or None):
            cell = cells[index]
            yield (
                cell,
                result if isinstance(result, CellResult) else _result_of_error(job, cell, result),
            )
    except Stopped:
        return


def _checkpointer(job: PackJob, cell: PackedCell) -> Checkpointer | None:
    """Return the cell's checkpointer; None if checkpointing is disabled."""
    if job.checkpoint_seconds is None and job.lease is None:
        return None
    interval = math.inf if job.checkpoint_seconds is None else job.checkpoint_seconds
    path = job.folder.checkpoints / f"{cell.cell_id}.pt"
    # Digests of the user's modules at launch: this process may not have imported them yet.
    code = json.dumps([code_version(), dict(job.modules)], sort_keys=True)
    return Checkpointer(path, interval, job.should_stop, code)


def _finish_checkpoint(checkpointer: Checkpointer | None, outcome: str, journal: Journal) -> None:
    """Delete the checkpoint of a cell that has ended, unless a retry may resume from it."""
    if checkpointer is None:
        return
    if outcome not in KEEP_CHECKPOINT:
        checkpointer.delete()
    if checkpointer.load_error:
        journal.note(f"{checkpointer.path}: not used: {checkpointer.load_error}")
    if checkpointer.save_error:
        journal.note(checkpointer.save_error)


def _progress(journal: Journal, cell: PackedCell, heartbeat: Heartbeat) -> OnProgress:
    """Return a callback that records a cell's progress every `PROGRESS_INTERVAL` seconds.

    In a stack it records only the first cell's progress, because all cells have the same. It also
    records when the data is loaded (no step done), because the cell's time counts from then on. By
    then the user's modules are imported, so their digests are computed: the files may change later.
    """
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if done == 0:
            user_modules([cell.config])
        if done == 0 or time.monotonic() - last >= PROGRESS_INTERVAL:
            last = time.monotonic()
            # A full disk is no reason to fail here; writing the result will report it.
            with suppress(FaninError):
                journal.progress(cell.cell_id, done, total)
            heartbeat()

    return report


def _result_of_error(job: PackJob, cell: PackedCell, error: BaseException) -> CellResult:
    """Return the result of a cell that raised an error, and write the traceback to a file."""
    reason = f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()
    # The reason comes first, because a long message may hide it at the end of a traceback.
    text = f"{reason}\n\n{format_traceback(error)}"
    path = job.folder.errors / f"{cell.cell_id}.{cell.attempt}.txt"
    atomic_write(path, text.encode(errors="backslashreplace"))
    if isinstance(error, CellTimeout):
        outcome = "timeout"
    else:
        outcome = "oom" if is_out_of_memory(error) else "error"
    return failed_result(cell, outcome, reason)
