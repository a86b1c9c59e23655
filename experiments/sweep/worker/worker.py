"""A worker runs a pack: its cells one by one or as a stack, each result committed to a journal."""

from __future__ import annotations

import json
import math
import os
import time
import traceback
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
from fanin.errors import FaninError

BEAT_EVERY = 1.0  # seconds
RETRIED = ("timeout", "oom")  # outcomes that more time or memory may mend
EXIT_OOM = 75  # exit status of a worker that was out of memory (sysexits.h: a temporary failure)

Checkpointers = Mapping[str, Checkpointer | None]  # by cell


def run_pack(job: PackJob, heartbeat: Heartbeat = lambda: None) -> None:
    """Run a pack's cells, then turn its journal into tables.

    A process that ran out of memory ends (`PackJob.exit_on_oom`) with exit status `EXIT_OOM`.

    `heartbeat` is called after each cell, and now and then.
    """
    try:
        spent = _run_pack(job, heartbeat)
    except MemoryError:  # with so little left that a result can't even be kept
        if not job.exit_on_oom:
            raise
        spent = True
    if spent:
        os._exit(EXIT_OOM)


def _run_pack(job: PackJob, heartbeat: Heartbeat) -> bool:
    """Run a pack; return True if memory ran out, and the launcher has to see to the rest."""
    pack = job.pack
    if job.should_stop():
        return False
    about = {"device": job.device, "threads": torch.get_num_threads(), "engine": pack.engine}
    journal = Journal(job.journal, about, new_folder=job.lease is None)
    try:
        known = {job.code}

        def note_code(code: str) -> str:
            if code not in known:
                journal.note(f"runs other code than the sweep was launched with: {code}")
                known.add(code)
            return code

        note_code(code_version())
        run = _stacked if pack.engine == "stacked" else _serial
        checkpointers = {cell.cell_id: _checkpointer(job, cell) for cell in pack.cells}
        for ended, (cell, result) in enumerate(
            run(job, journal, checkpointers, heartbeat), start=1
        ):
            if not journal.is_owned():
                return False
            code = note_code(_code(job, cell))
            row = complete_row(cell, result.row, job.device, pack.engine, code)
            spent = job.exit_on_oom and row["outcome"] == "oom"
            if spent and pack.engine == "stacked" and ended < len(pack.cells):
                return True  # nobody knows whose memory it was: each runs again alone
            journal.done(replace(result, row=row))
            _end(checkpointers[cell.cell_id], row["outcome"], journal)
            heartbeat()
            if spent:
                return True
    finally:
        journal.close()
    commit_journal(job.folder, journal.path)
    return False


def _code(job: PackJob, cell: PackedCell) -> str:
    """Return the code that ran a cell; with modules of the user's own that have changed since."""
    modules = user_modules([cell.config]).items()
    other = [f"+{name}:{now}" for name, now in modules if job.modules.get(name, now) != now]
    return code_version() + "".join(other)


def _serial(
    job: PackJob, journal: Journal, checkpointers: Checkpointers, heartbeat: Heartbeat
) -> Iterator[tuple[PackedCell, CellResult]]:
    for cell in job.pack.cells:
        if not journal.is_owned() or job.should_stop():
            return
        journal.start(cell.cell_id, cell.attempt)
        began = time.perf_counter()
        try:
            with time_limit(job.cell_seconds):
                device = torch.device(job.device)
                progress = _progress(journal, cell, heartbeat)
                result = run_cell(cell.config, device, progress, checkpointers[cell.cell_id])
        except Stopped:
            return
        except (*FAILURES, CellTimeout) as error:
            result = _failure(job, cell, error)
            result.row["seconds"] = time.perf_counter() - began
        yield cell, result


def _stacked(
    job: PackJob, journal: Journal, checkpointers: Checkpointers, heartbeat: Heartbeat
) -> Iterator[tuple[PackedCell, CellResult]]:
    cells = job.pack.cells
    for cell in cells:
        journal.start(cell.cell_id, cell.attempt)
    configs = [cell.config for cell in cells]
    progress = _progress(journal, cells[0], heartbeat)
    used = [each for each in checkpointers.values() if each is not None]  # all or none
    try:
        for index, ended in run_stack(configs, torch.device(job.device), progress, used or None):
            cell = cells[index]
            yield cell, ended if isinstance(ended, CellResult) else _failure(job, cell, ended)
    except Stopped:
        return


def _checkpointer(job: PackJob, cell: PackedCell) -> Checkpointer | None:
    """Return the cell's checkpointer; None if checkpointing is disabled."""
    if job.checkpoint_seconds is None and job.lease is None:
        return None
    every = math.inf if job.checkpoint_seconds is None else job.checkpoint_seconds
    path = job.folder.checkpoints / f"{cell.cell_id}.pt"
    # The user's own modules count as they were when the sweep was launched: by now they may not be
    # loaded yet.
    code = json.dumps([code_version(), dict(job.modules)], sort_keys=True)
    return Checkpointer(path, every, job.should_stop, code)


def _end(checkpointer: Checkpointer | None, outcome: str, journal: Journal) -> None:
    """Delete the checkpoint of a cell that has ended, unless a retry may resume from it."""
    if checkpointer is None:
        return
    if outcome not in RETRIED:
        checkpointer.delete()
    if checkpointer.load_error:
        journal.note(f"{checkpointer.path}: not used: {checkpointer.load_error}")
    if checkpointer.save_error:
        journal.note(checkpointer.save_error)


def _progress(journal: Journal, cell: PackedCell, heartbeat: Heartbeat) -> OnProgress:
    """Return a callback that notes in the journal now and then how far a cell is.

    Of a stack, its first: they go along. And once when its data is there: from then on its time
    counts.
    """
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if done == 0 or time.monotonic() - last >= BEAT_EVERY:
            last = time.monotonic()
            # Whether the disk takes this line is nothing to a cell; its result will say.
            with suppress(FaninError):
                journal.progress(cell.cell_id, done, total)
            heartbeat()

    return report


def _failure(job: PackJob, cell: PackedCell, error: BaseException) -> CellResult:
    """Return the result of a cell that raised; its traceback goes to a file."""
    reason = f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()
    # The reason comes first: a traceback's last line may be the end of a long message.
    text = f"{reason}\n\n{''.join(traceback.format_exception(error))}"
    path = job.folder.errors / f"{cell.cell_id}.{cell.attempt}.txt"
    atomic_write(path, text.encode(errors="backslashreplace"))
    if isinstance(error, CellTimeout):
        outcome = "timeout"
    else:
        outcome = "oom" if is_out_of_memory(error) else "error"
    return failed_result(cell, outcome, reason)
