"""Where packs run: in this process, or in a pool of workers on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from typing import Any, Protocol

import torch
from pebble import ProcessExpired, ProcessPool
from pydantic import PositiveInt

from experiments.cell import CellResult
from experiments.errors import ConfigError, FaninError
from experiments.sweep.plan import Pack, Task
from experiments.sweep.store.journal import Journal, lives, read_events, read_writer
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.worker import failed, identified, prepare_torch, run_pack, start_worker

Tick = Callable[[], None]
POLL = 0.25  # seconds between two looks at the journals
STILLBORN = 3  # workers in a row that die before they begin a cell: something is wrong with all
NO_WORKER = "workers die before they begin a cell; runner=inline shows why"


class Runner(Protocol):
    """What an option of `conf/runner/` names."""

    @property
    def device(self) -> str:
        """`auto`, `cpu`, `cuda` or `cuda:N`."""

    @property
    def pack_cells(self) -> int:
        """Most cells in a pack."""

    def run(self, folder: SweepFolder, packs: Sequence[Pack], tick: Tick) -> None:
        """Run packs to the end, calling `tick` now and then."""


@dataclass(frozen=True)
class InlineRunner:
    """In this process, one cell after the other: for debugging, and for a single cell."""

    device: str = "auto"
    pack_cells: PositiveInt = 16

    def run(self, folder: SweepFolder, packs: Sequence[Pack], tick: Tick) -> None:
        """Run packs here, calling `tick` after each cell."""
        prepare_torch()
        for pack in packs:
            run_pack(str(folder.root), _stem(), pack, devices(self.device)[0], tick)
        tick()


@dataclass(frozen=True)
class LocalRunner:
    """A bounded pool of persistent worker processes, one thread (or one GPU) each.

    Parameters
    ----------
    workers
        Processes; None: one a core, or one a GPU where the device is CUDA.
    device
        `auto`, `cpu`, `cuda` or `cuda:N`.
    pack_cells
        Most cells handed to a worker at once; a death costs one cell, whatever this is.
    """

    workers: PositiveInt | None = None
    device: str = "auto"
    pack_cells: PositiveInt = 16

    def run(self, folder: SweepFolder, packs: Sequence[Pack], tick: Tick) -> None:
        """Run packs in the pool; a worker that dies costs the cell it was at, and no other."""
        slots = devices(self.device)
        default = len(slots) if slots[0] != "cpu" else _cores()
        pool = ProcessPool(
            max_workers=min(self.workers or default, max(len(packs), 1)),
            context=multiprocessing.get_context("spawn"),
            initializer=start_worker,
            initargs=(os.getpid(),),
        )
        # Its own start would let interrupts in again in the middle of `_interrupts_held`.
        resource_tracker.ensure_running()
        queue = list(packs)
        running: dict[Future[None], tuple[str, Pack]] = {}
        started = stillborn = 0
        try:
            while queue or running:
                with _interrupts_held():  # by what is started here too: Ctrl-C is not for workers
                    for pack in queue:
                        stem, device = _stem(), slots[started % len(slots)]
                        started += 1
                        arguments = (str(folder.root), stem, pack, device)
                        running[_scheduled(pool, arguments)] = stem, pack
                queue = []
                for ended in wait(running, timeout=POLL, return_when=FIRST_COMPLETED).done:
                    stem, pack = running.pop(ended)
                    rest = _settle(folder, stem, pack, ended)
                    # A pack that comes back whole had a worker that died before its first cell.
                    stillborn = stillborn + 1 if rest == [pack] else 0
                    if stillborn == STILLBORN:
                        raise FaninError(NO_WORKER)
                    queue += rest
                if running and not pool.active:  # its workers died at birth, before it had tasks
                    raise FaninError(NO_WORKER)
                tick()
                for future, (stem, _) in running.items():
                    if future.running() and _deserted(folder, stem):
                        future.cancel()
        except BaseException:
            pool.stop()
            raise
        else:
            pool.close()
        finally:
            pool.join()


def _scheduled(pool: ProcessPool, arguments: tuple[Any, ...]) -> Future[None]:
    try:
        return pool.schedule(run_pack, args=arguments)
    except RuntimeError as error:  # pebble gives up on workers that die at birth
        raise FaninError(NO_WORKER) from error


def _settle(folder: SweepFolder, stem: str, pack: Pack, ended: Future[None]) -> list[Pack]:
    """What is left of a pack that has ended, well or with its worker."""
    if ended.cancelled():
        return bury(folder, stem, pack, 0)
    error = ended.exception()
    if isinstance(error, ProcessExpired):
        return bury(folder, stem, pack, error.exitcode)
    if isinstance(error, BrokenProcessPool):
        raise FaninError(NO_WORKER) from error
    if error is not None:
        raise error
    return []


def _deserted(folder: SweepFolder, stem: str) -> bool:
    """Whether a pack's worker is gone; one that leaves with exit code 0 pebble doesn't miss."""
    try:
        writer = read_writer(folder.journals / f"{stem}.journal")
    except FileNotFoundError:  # not begun, or ended
        return False
    return writer is not None and lives(writer) is False


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM; processes that start here never get a Ctrl-C, from birth on.

    The mask is what those inherit. It can't keep interrupts from this process by itself: the signal
    then goes to a thread of some library, and Python answers it in the middle of what is held.
    """
    came: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda number, _: came.append(number)) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if came:
        signal.raise_signal(came[0])


def _cores() -> int:
    """Cores that this process may use (macOS can't say, and names all)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def devices(asked: str) -> list[str]:
    """The devices that workers take turns on.

    Raises
    ------
    ConfigError
        There is no such device here.

    Examples
    --------
    >>> devices("cpu")
    ['cpu']
    """
    graphics = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if asked == "auto":
        return graphics or ["cpu"]
    if asked == "cuda" and graphics:
        return graphics
    if asked in ("cpu", *graphics):
        return [asked]
    there = ", ".join(["auto", "cpu", *graphics])
    raise ConfigError(f"runner.device={asked}: no such device here; valid: {there}")


def bury(folder: SweepFolder, stem: str, pack: Pack, exitcode: int) -> list[Pack]:
    """Settle a dead worker's pack: keep what it finished, blame its cell, return the rest."""
    journal = folder.journals / f"{stem}.journal"
    if not journal.exists():  # it died before the first cell, or after the last
        return [] if (folder.table("cells") / f"{stem}.parquet").exists() else [pack]
    events = read_events(journal)[0]
    finished = {event.cell_id for event in events if event.kind == "done"}
    blamed = {event.cell_id for event in events if event.kind == "start"} - finished
    commit_journal(folder, journal)
    note = Journal(folder.journals / f"{_stem()}.journal")
    for task in pack.tasks:
        if task.cell_id in blamed:
            note.done(_killed(task, exitcode))
    note.close()
    commit_journal(folder, note.path)
    rest = tuple(t for t in pack.tasks if t.cell_id not in finished | blamed)
    return [replace(pack, tasks=rest)] if rest else []


def _killed(task: Task, exitcode: int) -> CellResult:
    result = failed(task, "killed", f"its worker process died (exit code {exitcode})")
    return replace(result, row=identified(task, result.row, "unknown"))


def _stem() -> str:
    return uuid.uuid4().hex
