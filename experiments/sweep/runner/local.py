"""A bounded pool of worker processes on this machine."""

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
from pydantic import PositiveFloat, PositiveInt

from experiments.errors import FaninError
from experiments.sweep.code import code_version, own_modules
from experiments.sweep.planning.pack import Pack
from experiments.sweep.runner.devices import cores, devices, worker_bytes
from experiments.sweep.runner.protocol import Tick
from experiments.sweep.runner.watch import PackWatch
from experiments.sweep.running.interrupts import interrupts_held
from experiments.sweep.running.process import start_worker
from experiments.sweep.running.server import start_server
from experiments.sweep.running.settle import settle
from experiments.sweep.running.worker import SPENT, Order, run_pack
from experiments.sweep.store.parquet import part_path
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.process import born

POLL = 0.25  # seconds between two looks at the journals
STILLBORN = 3  # workers in a row that die before they begin a cell: something is wrong with all
LEFT = "its worker process left in the middle of it, as by os._exit(0)"
NO_WORKER = "workers die before they begin a cell; runner=inline shows why"


@dataclass(frozen=True)
class LocalRunner:
    """A bounded pool of worker processes, one thread (or one GPU) each.

    Parameters
    ----------
    workers
        Processes; None: one a core, or one a GPU where the device is CUDA.
    device
        `auto`, `cpu`, `cuda` or `cuda:N`.
    pack_cells
        Most cells handed to a worker at once, whose death costs one of them; None: by the work
        in them.
    cell_seconds
        Time limit of a cell, after which its worker is killed; None: no limit.
    memory_gb
        What a worker may allocate (GiB), on a CPU; None: its share of this machine's memory.
    """

    workers: PositiveInt | None = None
    device: str = "auto"
    pack_cells: PositiveInt | None = None
    cell_seconds: PositiveFloat | None = None
    memory_gb: PositiveFloat | None = None

    @property
    def n_workers(self) -> int:
        """How many packs run at once."""
        slots = devices(self.device)
        return self.workers or (len(slots) if slots[0] != "cpu" else cores())

    def worker_memory(self) -> int:
        """Bytes of memory that a worker may use."""
        slots = devices(self.device)
        sharing = -(-self.n_workers // len(slots))  # workers on one device, rounded up
        return worker_bytes(slots[0], sharing, self.memory_gb)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a worker process of its own.

        Raises
        ------
        FaninError
            The process died.
        """
        pool = self._pool(1)
        try:
            with interrupts_held():
                future = _scheduled(pool, function, *arguments)
            return future.result()
        except ProcessExpired as error:
            raise FaninError(f"its process died ({_exit(error.exitcode)})") from error
        finally:
            pool.stop()
            pool.join()

    def run(self, folder: SweepFolder, packs: Sequence[Pack], tick: Tick) -> None:
        """Run packs in the pool; a worker that dies costs the cell it was at, and no other."""
        slots, code = devices(self.device), code_version()
        pool = self._pool(min(self.n_workers, max(len(packs), 1)))
        queue = list(packs)
        running: dict[Future[None], tuple[Order, PackWatch]] = {}
        started = stillborn = 0
        try:
            while queue or running:
                with interrupts_held():  # by what is started here too: Ctrl-C is not for workers
                    for pack in queue:
                        device = slots[started % len(slots)]
                        modules = own_modules(task.config for task in pack.tasks)
                        stem = uuid.uuid4().hex
                        order = Order(
                            str(folder.root), stem, pack, device, code, modules, replaceable=True
                        )
                        started += 1
                        journal = folder.journals / f"{order.stem}.journal"
                        watch = PackWatch(journal, self.cell_seconds)
                        running[_scheduled(pool, run_pack, order)] = order, watch
                queue = []
                for ended in wait(running, timeout=POLL, return_when=FIRST_COMPLETED).done:
                    order, watch = running.pop(ended)
                    rest = self._settle(folder, order, watch, ended)
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

    def _pool(self, workers: int) -> ProcessPool:
        start_server()
        memory = self.worker_memory() if devices(self.device)[0] == "cpu" else None
        return ProcessPool(
            max_workers=workers,
            context=multiprocessing.get_context("forkserver"),
            initializer=start_worker,
            initargs=(platform.node(), os.getpid(), born(os.getpid()), memory),
        )

    def _settle(
        self, folder: SweepFolder, order: Order, watch: PackWatch, ended: Future[None]
    ) -> list[Pack]:
        """What is left of a pack that has ended, well or with its worker."""
        if ended.cancelled():
            return bury(folder, order, "killed", LEFT)
        error = ended.exception()
        if error is None:
            return []
        if isinstance(error, ProcessExpired):
            if watch.timed_out:
                reason = f"ran longer than {self.cell_seconds:g} s (runner.cell_seconds)"
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
    journal = folder.journals / f"{order.stem}.journal"
    # It may have died as it turned its journal into tables: then it had taken it itself.
    mine = (journal, journal.with_suffix(".taken"))
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
