"""Where packs run: in this process, or in a pool of workers on this machine."""

from __future__ import annotations

import multiprocessing
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from pebble import ProcessExpired, ProcessPool
from pydantic import PositiveInt

from experiments.cell import CellResult
from experiments.errors import FaninError
from experiments.sweep.plan import Pack, Task
from experiments.sweep.store.journal import Journal, read_events
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.worker import failed, identified, prepare_torch, run_pack, start_worker

Tick = Callable[[], None]
POLL = 0.25  # seconds between two looks at the journals
STILLBORN = 3  # workers in a row that die before they begin a cell: something is wrong with all


class Runner(Protocol):
    """What an option of `conf/runner/` names."""

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
        """Run packs here; the progress is looked at after each cell's worth of pack."""
        prepare_torch()
        for pack in packs:
            run_pack(str(folder.root), _stem(), pack, devices(self.device)[0])
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
        default = len(slots) if slots[0] != "cpu" else len(os.sched_getaffinity(0))
        pool = ProcessPool(
            max_workers=min(self.workers or default, max(len(packs), 1)),
            context=multiprocessing.get_context("spawn"),
            initializer=start_worker,
            initargs=(os.getpid(),),
        )
        queue = list(packs)
        running: dict[Future[None], tuple[str, Pack]] = {}
        started = stillborn = 0
        try:
            while queue or running:
                for pack in queue:
                    stem, device = _stem(), slots[started % len(slots)]
                    started += 1
                    future = pool.schedule(run_pack, args=(str(folder.root), stem, pack, device))
                    running[future] = stem, pack
                queue = []
                for ended in wait(running, timeout=POLL, return_when=FIRST_COMPLETED).done:
                    stem, pack = running.pop(ended)
                    rest = _settle(folder, stem, pack, ended.exception())
                    # A pack that comes back whole had a worker that died before its first cell.
                    stillborn = stillborn + 1 if rest == [pack] else 0
                    if stillborn == STILLBORN:
                        raise FaninError(
                            f"{STILLBORN} workers in a row died before they began a cell; "
                            "runner=inline shows why"
                        )
                    queue += rest
                tick()
        except BaseException:
            pool.stop()
            raise
        else:
            pool.close()
        finally:
            pool.join()


def _settle(folder: SweepFolder, stem: str, pack: Pack, error: BaseException | None) -> list[Pack]:
    """What is left of a pack that has ended, well or with its worker."""
    if isinstance(error, ProcessExpired):
        return bury(folder, stem, pack, error)
    if error is not None:
        raise error
    return []


def devices(asked: str) -> list[str]:
    """The devices that workers take turns on.

    >>> devices("cpu")
    ['cpu']
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda":
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [asked]


def bury(folder: SweepFolder, stem: str, pack: Pack, error: ProcessExpired) -> list[Pack]:
    """Settle a dead worker's pack: keep what it finished, blame its cell, return the rest."""
    journal = folder.journals / f"{stem}.journal"
    events = read_events(journal)[0] if journal.exists() else []
    finished = {event.cell_id for event in events if event.kind == "done"}
    blamed = {event.cell_id for event in events if event.kind == "start"} - finished
    if journal.exists():
        commit_journal(folder, journal)
    note = Journal(folder.journals / f"{_stem()}.journal")
    for task in pack.tasks:
        if task.cell_id in blamed:
            note.done(_killed(task, error))
    note.close()
    commit_journal(folder, note.path)
    rest = tuple(t for t in pack.tasks if t.cell_id not in finished | blamed)
    return [replace(pack, tasks=rest)] if rest else []


def _killed(task: Task, error: ProcessExpired) -> CellResult:
    result = failed(task, "killed", f"its worker process died (exit code {error.exitcode})")
    return replace(result, row=identified(task, result.row, "unknown"))


def _stem() -> str:
    return uuid.uuid4().hex
