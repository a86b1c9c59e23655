"""What a worker does with a pack: run its cells, commit each result."""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import torch

from experiments.atomic_write import atomic_write
from experiments.cell import run_cell
from experiments.result import CellResult
from experiments.stack import FAILURES, run_stack
from experiments.sweep.provenance import code_version, own_modules
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.types import Task
from experiments.sweep.worker.limits import CellTimeout, is_out_of_memory, time_limit
from experiments.sweep.worker.order import Order
from experiments.sweep.worker.rows import failed, identified
from experiments.training.checkpoint import Checkpointer, Stopped
from experiments.training.loop import OnProgress
from fanin.errors import FaninError

BEAT_EVERY = 1.0  # seconds
RETRIED = ("timeout", "oom")  # outcomes that more time or memory may mend
SPENT = 75  # exit status of a worker that was out of memory (sysexits.h: a temporary failure)

Tick = Callable[[], None]
Checkpointers = Mapping[str, Checkpointer | None]  # by cell


def run_pack(order: Order, tick: Tick = lambda: None) -> None:
    """Run a pack's cells, then turn its journal into tables.

    A process that ran out of memory ends (`Order.replaceable`) with exit status `SPENT`.

    Parameters
    ----------
    order
        The pack.
    tick
        Called after each cell, and now and then.
    """
    try:
        spent = _run_pack(order, tick)
    except MemoryError:  # with so little left that a result can't even be kept
        if not order.replaceable:
            raise
        spent = True
    if spent:
        os._exit(SPENT)


def _run_pack(order: Order, tick: Tick) -> bool:
    """Run a pack; True where memory ran out, and the launcher has to see to the rest."""
    pack = order.pack
    if order.stopped():
        return False
    about = {"device": order.device, "threads": torch.get_num_threads(), "engine": pack.engine}
    journal = Journal(order.journal, about, new_folder=order.lease is None)
    try:
        told = {order.code}

        def tell(code: str) -> str:
            if code not in told:
                journal.note(f"runs other code than the sweep was launched with: {code}")
                told.add(code)
            return code

        tell(code_version())
        run = _stacked if pack.engine == "stacked" else _serial
        checkpointers = {task.cell_id: _checkpointer(order, task) for task in pack.tasks}
        for ended, (task, result) in enumerate(run(order, journal, checkpointers, tick), start=1):
            if not journal.held():
                return False
            code = tell(_code(order, task))
            row = identified(task, result.row, order.device, pack.engine, code)
            spent = order.replaceable and row["outcome"] == "oom"
            if spent and pack.engine == "stacked" and ended < len(pack.tasks):
                return True  # nobody knows whose memory it was: each runs again alone
            journal.done(replace(result, row=row))
            _end(checkpointers[task.cell_id], row["outcome"], journal)
            tick()
            if spent:
                return True
    finally:
        journal.close()
    commit_journal(order.folder, journal.path)
    return False


def _code(order: Order, task: Task) -> str:
    """The code that ran a cell; modules of the user's own where they aren't what was launched."""
    modules = own_modules([task.config]).items()
    other = [f"+{name}:{now}" for name, now in modules if order.modules.get(name, now) != now]
    return code_version() + "".join(other)


def _serial(
    order: Order, journal: Journal, checkpointers: Checkpointers, tick: Tick
) -> Iterator[tuple[Task, CellResult]]:
    for task in order.pack.tasks:
        if not journal.held() or order.stopped():
            return
        journal.start(task.cell_id, task.attempt)
        began = time.perf_counter()
        try:
            with time_limit(order.cell_seconds):
                device = torch.device(order.device)
                beat, checkpointer = _heartbeat(journal, task, tick), checkpointers[task.cell_id]
                result = run_cell(task.config, device, beat, checkpointer)
        except Stopped:
            return
        except (*FAILURES, CellTimeout) as error:
            result = _failure(order, task, error)
            result.row["seconds"] = time.perf_counter() - began
        yield task, result


def _stacked(
    order: Order, journal: Journal, checkpointers: Checkpointers, tick: Tick
) -> Iterator[tuple[Task, CellResult]]:
    tasks = order.pack.tasks
    for task in tasks:
        journal.start(task.cell_id, task.attempt)
    configs = [task.config for task in tasks]
    beat = _heartbeat(journal, tasks[0], tick)
    used = [each for each in checkpointers.values() if each is not None]  # all or none
    try:
        for index, ended in run_stack(configs, torch.device(order.device), beat, used or None):
            task = tasks[index]
            yield task, ended if isinstance(ended, CellResult) else _failure(order, task, ended)
    except Stopped:
        return


def _checkpointer(order: Order, task: Task) -> Checkpointer | None:
    """Return the cell's checkpointer; None if checkpointing is disabled."""
    if order.checkpoint_seconds is None and order.lease is None:
        return None
    every = math.inf if order.checkpoint_seconds is None else order.checkpoint_seconds
    path = order.folder.checkpoints / f"{task.cell_id}.pt"
    # The user's own modules count as they were when the sweep was launched: by now they may not be
    # loaded yet.
    code = json.dumps([code_version(), dict(order.modules)], sort_keys=True)
    return Checkpointer(path, every, order.stopped, code)


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


def _heartbeat(journal: Journal, task: Task, tick: Tick) -> OnProgress:
    """Says now and then in the journal how far a cell is (of a stack, its first: they go along).

    And once when its data is there: from then on its time counts.
    """
    last = time.monotonic()

    def beat(done: int, total: int) -> None:
        nonlocal last
        if done == 0 or time.monotonic() - last >= BEAT_EVERY:
            last = time.monotonic()
            # Whether the disk takes this line is nothing to a cell; its result will say.
            with suppress(FaninError):
                journal.beat(task.cell_id, done, total)
            tick()

    return beat


def _failure(order: Order, task: Task, error: BaseException) -> CellResult:
    """What became of a cell that raised, with the traceback in a file."""
    reason = f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()
    # The reason comes first: a traceback's last line may be the end of a long message.
    text = f"{reason}\n\n{''.join(traceback.format_exception(error))}"
    path = order.folder.errors / f"{task.cell_id}.{task.attempt}.txt"
    atomic_write(path, text.encode(errors="backslashreplace"))
    if isinstance(error, CellTimeout):
        outcome = "timeout"
    else:
        outcome = "oom" if is_out_of_memory(error) else "error"
    return failed(task, outcome, reason)
