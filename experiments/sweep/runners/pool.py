"""A bounded pool of worker processes, and what is left of a pack whose worker dies."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any

from pebble import ProcessExpired, ProcessPool

from experiments.sweep.interrupts import interrupts_held
from experiments.sweep.provenance import code_version, own_modules
from experiments.sweep.runners.protocol import Tick
from experiments.sweep.runners.watch import PackWatch
from experiments.sweep.store.parquet import part_path
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.process import born
from experiments.sweep.types import Pack
from experiments.sweep.worker.finalize import settle
from experiments.sweep.worker.forkserver import start_server
from experiments.sweep.worker.order import Order
from experiments.sweep.worker.process import start_worker
from experiments.sweep.worker.worker import SPENT, run_pack
from fanin.errors import FaninError

POLL = 0.25  # seconds between two looks at the journals
STILLBORN = 3  # workers in a row that die before they begin a cell: something is wrong with all
LEFT = "its worker process left in the middle of it, as by os._exit(0)"
NO_WORKER = "workers die before they begin a cell; runner=inline shows why"


@dataclass(frozen=True)
class Crew:
    """The workers of a pool, and what they have to keep to.

    Parameters
    ----------
    workers
        How many.
    slots
        The devices they take turns on.
    memory
        Bytes that each may allocate; None: no limit of ours.
    cell_seconds
        Time limit of a cell; None: no limit.
    checkpoint_seconds
        How often a cell in training is kept; None: never.
    code
        What the sweep was launched with; None: the code of this process.
    modules
        The user's own modules likewise.
    lease
        See `Order`.
    prefix
        What the names of journals and parts begin with.
    """

    workers: int
    slots: Sequence[str]
    memory: int | None = None
    cell_seconds: float | None = None
    checkpoint_seconds: float | None = None
    code: str | None = None
    modules: dict[str, str] | None = None
    lease: str | None = None
    prefix: str = ""

    def order(self, folder: SweepFolder, pack: Pack, number: int) -> Order:
        """What the worker that is the `number`-th to be given something does with a pack."""
        modules = self.modules
        return Order(
            str(folder.root),
            f"{self.prefix}{uuid.uuid4().hex}",
            pack,
            self.slots[number % len(self.slots)],
            self.code or code_version(),
            own_modules(task.config for task in pack.tasks) if modules is None else modules,
            replaceable=True,
            checkpoint_seconds=self.checkpoint_seconds,
            lease=self.lease,
        )


def run_pool(crew: Crew, folder: SweepFolder, packs: Sequence[Pack], tick: Tick) -> None:
    """Run packs in a pool; a worker that dies costs the cell it was at, and no other."""
    pool = _pool(crew, min(crew.workers, max(len(packs), 1)))
    queue = list(packs)
    running: dict[Future[None], tuple[Order, PackWatch]] = {}
    started = stillborn = 0
    try:
        while queue or running:
            with interrupts_held():  # by what is started here too: Ctrl-C is not for workers
                for pack in queue:
                    order = crew.order(folder, pack, started)
                    started += 1
                    watch = PackWatch(order.journal, crew.cell_seconds)
                    running[_scheduled(pool, run_pack, order)] = order, watch
            queue = []
            for ended in wait(running, timeout=POLL, return_when=FIRST_COMPLETED).done:
                order, watch = running.pop(ended)
                rest = _settle(folder, order, watch, ended)
                # A pack that comes back whole had a worker that died before its first cell.
                stillborn = stillborn + 1 if rest == [order.pack] else 0
                if stillborn == STILLBORN:
                    raise FaninError(NO_WORKER)
                queue += rest
            if running and not pool.active:  # its workers died at birth, before it had tasks
                raise FaninError(NO_WORKER)
            tick()
            for future, (_, watch) in running.items():
                if future.running():
                    watch.look()
                    if watch.deserted():
                        future.cancel()
    except BaseException:
        pool.stop()
        raise
    else:
        pool.close()
    finally:
        pool.join()


def call_in_pool(crew: Crew, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a worker process of its own.

    Raises
    ------
    FaninError
        The process died.
    """
    pool = _pool(crew, 1)
    try:
        with interrupts_held():
            future = _scheduled(pool, function, *arguments)
        return future.result()
    except ProcessExpired as error:
        raise FaninError(f"its process died ({_exit(error.exitcode)})") from error
    finally:
        pool.stop()
        pool.join()


def _pool(crew: Crew, workers: int) -> ProcessPool:
    start_server()
    return ProcessPool(
        max_workers=workers,
        context=multiprocessing.get_context("forkserver"),
        initializer=start_worker,
        initargs=(platform.node(), os.getpid(), born(os.getpid()), crew.memory),
    )


def _settle(folder: SweepFolder, order: Order, watch: PackWatch, ended: Future[None]) -> list[Pack]:
    """What is left of a pack that has ended, well or with its worker."""
    if ended.cancelled():
        return bury(folder, order, "killed", LEFT)
    error = ended.exception()
    if error is None:
        return []
    if isinstance(error, ProcessExpired):
        if watch.timed_out:
            reason = f"ran longer than {watch.cell_seconds:g} s (runner.cell_seconds)"
            return bury(folder, order, "timeout", reason)
        if error.exitcode == SPENT:
            return bury(folder, order, "oom", "its worker process had no memory left")
        return bury(folder, order, "killed", _died(error.exitcode))
    if isinstance(error, BrokenProcessPool):
        raise FaninError(NO_WORKER) from error
    raise error


def bury(folder: SweepFolder, order: Order, outcome: str, reason: str) -> list[Pack]:
    """Settle a dead worker's pack: keep what it finished, blame its cell, return the rest.

    Of cells that ran together nobody knows which one it was: each comes back as a pack of its own,
    so that the next death names it.
    """
    pack = order.pack
    tasks = {task.cell_id: task for task in pack.tasks}
    # It may have died as it turned its journal into tables: then it had taken it itself.
    mine = (order.journal, order.journal.with_suffix(".taken"))
    found = (settle(folder, path, tasks, outcome, reason) for path in mine)
    settled = next((each for each in found if each is not None), None)
    if settled is None:  # it died before the first cell, or after the last
        return [] if part_path(folder, "cells", order.stem).exists() else [pack]
    ended = settled.finished | settled.blamed
    alone = [replace(pack, tasks=(tasks[cell],)) for cell in tasks if cell in settled.suspects]
    rest = tuple(t for t in pack.tasks if t.cell_id not in ended | settled.suspects)
    return alone + ([replace(pack, tasks=rest)] if rest else [])


def _scheduled(pool: ProcessPool, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    try:
        return pool.schedule(function, args=arguments)
    except RuntimeError as error:  # pebble gives up on workers that die at birth
        raise FaninError(NO_WORKER) from error


def _died(code: int | None) -> str:
    return f"its worker process died ({_exit(code)})"


def _exit(code: int | None) -> str:
    """An exit code as people know it.

    >>> _exit(-11), _exit(3)
    ('exit code -11, SIGSEGV', 'exit code 3')
    """
    names = {-number.value: number.name for number in signal.Signals}
    return f"exit code {code}" + (f", {names[code]}" if code in names else "")
