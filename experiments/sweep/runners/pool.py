"""A bounded pool of worker processes, and what is left of a pack whose worker dies."""

from __future__ import annotations

import multiprocessing
import signal
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any

from pebble import ProcessExpired, ProcessPool
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from experiments.sweep.interrupts import defer_interrupts
from experiments.sweep.provenance import code_version, user_modules
from experiments.sweep.runners.devices import available_cores, devices, worker_memory_bytes
from experiments.sweep.runners.watch import PackWatch
from experiments.sweep.store.parquet import part_path
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.process import ProcessId
from experiments.sweep.types import Heartbeat, Pack, PackJob
from experiments.sweep.worker.finalize import finalize_journal
from experiments.sweep.worker.forkserver import start_server
from experiments.sweep.worker.limits import start_worker
from experiments.sweep.worker.worker import EXIT_OOM, run_pack
from fanin.errors import FaninError

POLL = 0.25  # seconds between two looks at the journals
MAX_STARTUP_FAILURES = 3  # workers in a row that die before a cell: something is wrong with all
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
    checkpoint_seconds
        How often a cell in training is kept, so that it goes on from there after an interruption;
        None: never.
    """

    workers: PositiveInt | None = None
    device: str = "auto"
    pack_cells: PositiveInt | None = None
    cell_seconds: PositiveFloat | None = None
    memory_gb: PositiveFloat | None = None
    checkpoint_seconds: NonNegativeFloat | None = 300.0

    @property
    def n_workers(self) -> int:
        """Number of packs that run at once."""
        device_names = devices(self.device)
        return self.workers or (
            len(device_names) if device_names[0] != "cpu" else available_cores()
        )

    def worker_memory(self) -> int:
        """Bytes of memory that a worker may use."""
        device_names = devices(self.device)
        sharing = -(-self.n_workers // len(device_names))  # workers on one device, rounded up
        return worker_memory_bytes(device_names[0], sharing, self.memory_gb)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a worker process of its own."""
        return call_in_pool(self._config(), function, *arguments)

    def run(self, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat) -> None:
        """Run packs in the pool; a worker that dies costs the cell it was at, and no other."""
        run_pool(self._config(), folder, packs, heartbeat)

    def _config(self) -> PoolConfig:
        device_names = devices(self.device)
        memory = self.worker_memory() if device_names[0] == "cpu" else None
        return PoolConfig(
            self.n_workers, device_names, memory, self.cell_seconds, self.checkpoint_seconds
        )


@dataclass(frozen=True)
class PoolConfig:
    """The workers of a pool, and what they have to keep to.

    Parameters
    ----------
    workers
        How many.
    device_names
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
        See `PackJob`.
    prefix
        What the names of journals and parts begin with.
    """

    workers: int
    device_names: Sequence[str]
    memory: int | None = None
    cell_seconds: float | None = None
    checkpoint_seconds: float | None = None
    code: str | None = None
    modules: dict[str, str] | None = None
    lease: str | None = None
    prefix: str = ""

    def job(self, folder: SweepFolder, pack: Pack, number: int) -> PackJob:
        """Return the job of the `number`-th pack that is handed to a worker."""
        modules = self.modules
        return PackJob(
            str(folder.root),
            f"{self.prefix}{uuid.uuid4().hex}",
            pack,
            self.device_names[number % len(self.device_names)],
            self.code or code_version(),
            user_modules(task.config for task in pack.cells) if modules is None else modules,
            exit_on_oom=True,
            checkpoint_seconds=self.checkpoint_seconds,
            lease=self.lease,
        )


def run_pool(
    config: PoolConfig, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat
) -> None:
    """Run packs in a pool; a worker that dies costs the cell it was at, and no other."""
    pool = _pool(config, min(config.workers, max(len(packs), 1)))
    queue = list(packs)
    running: dict[Future[None], tuple[PackJob, PackWatch]] = {}
    started = failed_starts = 0
    try:
        while queue or running:
            with defer_interrupts():  # by what is started here too: Ctrl-C is not for workers
                for pack in queue:
                    job = config.job(folder, pack, started)
                    started += 1
                    watch = PackWatch(job.journal, config.cell_seconds)
                    running[_scheduled(pool, run_pack, job)] = job, watch
            queue = []
            for ended in wait(running, timeout=POLL, return_when=FIRST_COMPLETED).done:
                job, watch = running.pop(ended)
                rest = _settle(folder, job, watch, ended)
                # A pack that comes back whole had a worker that died before its first cell.
                failed_starts = failed_starts + 1 if rest == [job.pack] else 0
                if failed_starts == MAX_STARTUP_FAILURES:
                    raise FaninError(NO_WORKER)
                queue += rest
            if running and not pool.active:  # its workers died at birth, before it had tasks
                raise FaninError(NO_WORKER)
            heartbeat()
            for future, (_, watch) in running.items():
                if future.running():
                    watch.poll()
                    if watch.is_orphaned():
                        future.cancel()
    except BaseException:
        pool.stop()
        raise
    else:
        pool.close()
    finally:
        pool.join()


def call_in_pool(config: PoolConfig, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a worker process of its own.

    Raises
    ------
    FaninError
        The process died.
    """
    pool = _pool(config, 1)
    try:
        with defer_interrupts():
            future = _scheduled(pool, function, *arguments)
        return future.result()
    except ProcessExpired as error:
        raise FaninError(f"its process died ({_exit(error.exitcode)})") from error
    finally:
        pool.stop()
        pool.join()


def _pool(config: PoolConfig, workers: int) -> ProcessPool:
    start_server()
    return ProcessPool(
        max_workers=workers,
        context=multiprocessing.get_context("forkserver"),
        initializer=start_worker,
        initargs=(ProcessId.current(), config.memory),
    )


def _settle(folder: SweepFolder, job: PackJob, watch: PackWatch, ended: Future[None]) -> list[Pack]:
    """Return the packs that are left of one that has ended, well or with its worker."""
    if ended.cancelled():
        return handle_worker_death(folder, job, "killed", LEFT)
    error = ended.exception()
    if error is None:
        return []
    if isinstance(error, ProcessExpired):
        if watch.timed_out:
            reason = f"ran longer than {watch.cell_seconds:g} s (runner.cell_seconds)"
            return handle_worker_death(folder, job, "timeout", reason)
        if error.exitcode == EXIT_OOM:
            return handle_worker_death(folder, job, "oom", "its worker process had no memory left")
        return handle_worker_death(folder, job, "killed", _died(error.exitcode))
    if isinstance(error, BrokenProcessPool):
        raise FaninError(NO_WORKER) from error
    raise error


def handle_worker_death(folder: SweepFolder, job: PackJob, outcome: str, reason: str) -> list[Pack]:
    """Settle a dead worker's pack: keep what it finished, blame its cell, return the rest.

    Of cells that ran together nobody knows which one it was: each comes back as a pack of its own,
    so that the next death names it.
    """
    pack = job.pack
    tasks = {task.cell_id: task for task in pack.cells}
    # It may have died as it turned its journal into tables: then it had taken it itself.
    mine = (job.journal, job.journal.with_suffix(".taken"))
    found = (finalize_journal(folder, path, tasks, outcome, reason) for path in mine)
    settled = next((each for each in found if each is not None), None)
    if settled is None:  # it died before the first cell, or after the last
        return [] if part_path(folder, "cells", job.stem).exists() else [pack]
    ended = settled.finished | settled.failed
    alone = [replace(pack, cells=(tasks[cell],)) for cell in tasks if cell in settled.candidates]
    rest = tuple(t for t in pack.cells if t.cell_id not in ended | settled.candidates)
    return alone + ([replace(pack, cells=rest)] if rest else [])


def _scheduled(pool: ProcessPool, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    try:
        return pool.schedule(function, args=arguments)
    except RuntimeError as error:  # pebble gives up on workers that die at birth
        raise FaninError(NO_WORKER) from error


def _died(code: int | None) -> str:
    return f"its worker process died ({_exit(code)})"


def _exit(code: int | None) -> str:
    """Return an exit code with the name of its signal.

    >>> _exit(-11), _exit(3)
    ('exit code -11, SIGSEGV', 'exit code 3')
    """
    names = {-number.value: number.name for number in signal.Signals}
    return f"exit code {code}" + (f", {names[code]}" if code in names else "")
