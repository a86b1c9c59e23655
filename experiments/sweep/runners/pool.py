"""Bounded pool of worker processes that recovers from the death of a worker."""

from __future__ import annotations

import multiprocessing
import signal
import uuid
from collections import Counter, deque
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

POLL_INTERVAL = 0.25  # seconds between two readings of the journals
MAX_STARTUP_FAILURES = 3  # workers in a row that died before a cell started
EXITED = "worker process exited during the cell, for example by os._exit(0)"
STARTUP_FAILURE = "workers die before they start a cell; run with runner=inline to see the error"


@dataclass(frozen=True)
class LocalRunner:
    """Runner with a bounded pool of worker processes, one thread (or one GPU) each.

    Parameters
    ----------
    workers
        Number of processes. None: one per core, or one per GPU if the device is CUDA.
    device
        `auto`, `cpu`, `cuda` or `cuda:N`.
    pack_cells
        Maximum number of cells in a pack. None: chosen by the time that cells take.
    cell_seconds
        Time limit of a cell, after which its worker is killed. None: no limit.
    memory_gb
        Memory that a worker may allocate, in GiB, on a CPU. None: an equal share of this machine's
        memory.
    checkpoint_seconds
        Seconds between two checkpoints of a cell, from which it resumes after an interruption.
        None disables them.
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
        """Return the bytes of memory that a worker may use."""
        device_names = devices(self.device)
        workers_per_device = -(-self.n_workers // len(device_names))  # rounded up
        return worker_memory_bytes(device_names[0], workers_per_device, self.memory_gb)

    def call(
        self, function: Callable[..., Any], *arguments: Any, heartbeat: Heartbeat = lambda: None
    ) -> Any:
        """Call a function in a new worker process, and `heartbeat` regularly."""
        return call_in_pool(self._config(), function, *arguments, heartbeat=heartbeat)

    def run(self, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat) -> None:
        """Run packs in the pool; if a worker dies, only the cell that it was running fails."""
        run_pool(self._config(), folder, packs, heartbeat)

    def _config(self) -> PoolConfig:
        device_names = devices(self.device)
        memory = self.worker_memory() if device_names[0] == "cpu" else None
        return PoolConfig(
            self.n_workers, device_names, memory, self.cell_seconds, self.checkpoint_seconds
        )


@dataclass(frozen=True)
class PoolConfig:
    """Configuration of a pool.

    Parameters
    ----------
    workers
        Number of worker processes.
    device_names
        Devices that share the workers equally. Each worker uses one device only.
    memory
        Bytes that a worker may allocate. None: no limit.
    cell_seconds
        Time limit of a cell. None: no limit.
    checkpoint_seconds
        Seconds between two checkpoints of a cell. None disables them.
    code
        Code version at launch. None: that of this process.
    modules
        Digests of the user's modules at launch. None: those of this process.
    lease
        See `PackJob`.
    prefix
        Prefix of the names of journals and parts.
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

    def worker_devices(self, n_packs: int) -> list[str]:
        """Return the device of each worker that this many packs need.

        >>> PoolConfig(3, ["cuda:0", "cuda:1"]).worker_devices(8)
        ['cuda:0', 'cuda:1', 'cuda:0']
        """
        workers = min(self.workers, max(n_packs, 1))
        return [self.device_names[n % len(self.device_names)] for n in range(workers)]

    def job(self, folder: SweepFolder, pack: Pack, device: str) -> PackJob:
        """Return the job that runs a pack on a device."""
        modules = self.modules
        return PackJob(
            str(folder.root),
            f"{self.prefix}{uuid.uuid4().hex}",
            pack,
            device,
            self.code or code_version(),
            user_modules(cell.config for cell in pack.cells) if modules is None else modules,
            exit_on_oom=True,
            checkpoint_seconds=self.checkpoint_seconds,
            lease=self.lease,
        )


def run_pool(
    config: PoolConfig, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat
) -> None:
    """Run packs in a pool; if a worker dies, only the cell that it was running fails."""
    free = deque(config.worker_devices(len(packs)))  # a device for each idle worker
    pools = {device: _make_pool(config, count) for device, count in Counter(free).items()}
    queue = deque(packs)
    running: dict[Future[None], tuple[PackJob, PackWatch]] = {}
    failed_starts = 0
    try:
        while queue or running:
            with defer_interrupts():  # also in the workers: Ctrl-C is for the launcher
                while queue and free:
                    job = config.job(folder, queue.popleft(), free.popleft())
                    watch = PackWatch(job.journal, config.cell_seconds)
                    running[_schedule(pools[job.device], run_pack, job)] = job, watch
            for future in wait(running, timeout=POLL_INTERVAL, return_when=FIRST_COMPLETED).done:
                job, watch = running.pop(future)
                free.append(job.device)
                remaining = _remaining_packs(folder, job, watch, future)
                # If the whole pack remains, its worker died before the first cell started.
                failed_starts = failed_starts + 1 if remaining == [job.pack] else 0
                if failed_starts == MAX_STARTUP_FAILURES:
                    raise FaninError(STARTUP_FAILURE)
                queue += remaining
            if not all(pools[job.device].active for job, _ in running.values()):
                raise FaninError(STARTUP_FAILURE)  # its workers died at startup
            heartbeat()
            for future, (_, watch) in running.items():
                if future.running():
                    watch.poll()
                    if watch.is_orphaned():
                        future.cancel()
    except BaseException:
        for pool in pools.values():
            pool.stop()
        raise
    else:
        for pool in pools.values():
            pool.close()
    finally:
        for pool in pools.values():
            pool.join()


def call_in_pool(
    config: PoolConfig,
    function: Callable[..., Any],
    *arguments: Any,
    heartbeat: Heartbeat = lambda: None,
) -> Any:
    """Call a function in a new worker process, and `heartbeat` regularly.

    Raises
    ------
    FaninError
        The process died.
    """
    pool = _make_pool(config, 1)
    try:
        with defer_interrupts():
            future = _schedule(pool, function, *arguments)
        while not wait([future], timeout=POLL_INTERVAL).done:
            heartbeat()
            if not pool.active:
                raise FaninError(STARTUP_FAILURE)
        return future.result()
    except BrokenProcessPool as error:
        raise FaninError(STARTUP_FAILURE) from error
    except ProcessExpired as error:
        raise FaninError(f"worker process died ({_describe_exit(error.exitcode)})") from error
    finally:
        pool.stop()
        pool.join()


def _make_pool(config: PoolConfig, workers: int) -> ProcessPool:
    start_server()
    return ProcessPool(
        max_workers=workers,
        context=multiprocessing.get_context("forkserver"),
        initializer=start_worker,
        initargs=(ProcessId.current(), config.memory),
    )


def _remaining_packs(
    folder: SweepFolder, job: PackJob, watch: PackWatch, future: Future[None]
) -> list[Pack]:
    """Return packs of the cells that the worker of a pack left unfinished."""
    if future.cancelled():
        return handle_worker_death(folder, job, "killed", EXITED)
    error = future.exception()
    if error is None:
        return []
    if isinstance(error, ProcessExpired):
        if watch.timed_out:
            reason = f"ran longer than {watch.cell_seconds:g} s (runner.cell_seconds)"
            return handle_worker_death(folder, job, "timeout", reason)
        if error.exitcode == EXIT_OOM:
            return handle_worker_death(folder, job, "oom", "worker process ran out of memory")
        return handle_worker_death(
            folder, job, "killed", f"worker process died ({_describe_exit(error.exitcode)})"
        )
    if isinstance(error, BrokenProcessPool):
        raise FaninError(STARTUP_FAILURE) from error
    raise error


def handle_worker_death(folder: SweepFolder, job: PackJob, outcome: str, reason: str) -> list[Pack]:
    """Finalize a dead worker's journal and return packs with the remaining cells.

    If several cells ran together, any of them may be the cause. Each of them becomes a pack of its
    own, so that the next death of a worker identifies the cause.
    """
    pack = job.pack
    cells = {cell.cell_id: cell for cell in pack.cells}
    # A worker that died while it wrote the tables had already renamed its journal to `.taken`.
    for journal in (job.journal, job.journal.with_suffix(".taken")):
        finalized = finalize_journal(folder, journal, cells, outcome, reason)
        if finalized is not None:
            break
    else:  # it died before the first cell, or after the last
        return [] if part_path(folder, "cells", job.stem).exists() else [pack]
    candidates = finalized.candidates
    ended = finalized.finished | finalized.failed
    isolated = [replace(pack, cells=(cells[key],)) for key in cells if key in candidates]
    remaining = tuple(cell for cell in pack.cells if cell.cell_id not in ended | candidates)
    return isolated + ([replace(pack, cells=remaining)] if remaining else [])


def _schedule(pool: ProcessPool, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    try:
        return pool.schedule(function, args=arguments)
    except RuntimeError as error:  # pebble gives up on workers that die at startup
        raise FaninError(STARTUP_FAILURE) from error


def _describe_exit(code: int | None) -> str:
    """Describe an exit code, with the name of its signal.

    >>> _describe_exit(-11), _describe_exit(3)
    ('exit code -11, SIGSEGV', 'exit code 3')
    """
    names = {-number.value: number.name for number in signal.Signals}
    return f"exit code {code}" + (f", {names[code]}" if code in names else "")
