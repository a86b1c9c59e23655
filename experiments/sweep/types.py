"""Types that the sweep's packages share: cells, packs, jobs for workers, runners."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from experiments.config.identity import cell_id
from experiments.config.instantiate import TARGET
from experiments.sweep.differences import full_label
from experiments.sweep.store.paths import SweepFolder

Assignment = dict[str, Any]
"""Dotted keys and group names to values: what tells a cell from the default one."""
Choices = dict[str, str | None]
"""Config groups to the names of their options."""
EngineName = Literal["serial", "stacked"]
EngineChoice = Literal["serial", "stacked", "auto"]
Heartbeat = Callable[[], None]
"""Called now and then by whatever takes long."""

# Cells of a pack differ at most in these and in the numbers of their optimizer, so they share data,
# network and warmed-up code, and can be stacked into one program.
VARIES_IN_PACK = ("init", "scaling", "seed", "seed_weights", "seed_data")
STOP_FILE = "stop"  # a file's name


@dataclass(frozen=True)
class PlannedCell:
    """A cell before it runs: its coerced config and the options that it was made of."""

    config: dict[str, Any]
    choices: Choices
    assignment: Assignment

    @cached_property
    def id(self) -> str:
        """The cell's identity."""
        return cell_id(self.config)

    @property
    def label(self) -> str:
        """The assignment, as one would type it."""
        return full_label(self.assignment)


@dataclass(frozen=True)
class PackedCell:
    """A cell to run, and which attempt at it this is; `lost`: how many were lost before it.

    Counted from when it was asked for: a launch that finds it lost asks for it anew.
    """

    cell_id: str
    attempt: int
    config: dict[str, Any]
    choices: Choices
    n_lost: int = 0


@dataclass(frozen=True)
class Pack:
    """Cells that run in one process: `serial`, one after the other; `stacked`, as one program.

    `seconds` is how long they are expected to take, more or less.
    """

    cells: tuple[PackedCell, ...]
    engine: EngineName = "serial"
    seconds: float = 0.0


def pack_key(config: Mapping[str, Any]) -> str:
    """Return what the cells of a pack have in common, as text. Such cells take about as long."""
    kept = {key: value for key, value in config.items() if key not in VARIES_IN_PACK}
    return json.dumps(kept | {"optim": config["optim"][TARGET]}, sort_keys=True)


def group_cells(cells: Iterable[PackedCell]) -> dict[str, list[PackedCell]]:
    """Group cells that could share a pack, by their `pack_key`."""
    groups: dict[str, list[PackedCell]] = {}
    for cell in cells:
        groups.setdefault(pack_key(cell.config), []).append(cell)
    return groups


@dataclass(frozen=True)
class PackJob:
    """A pack to run, and all that a worker needs to know for it.

    Parameters
    ----------
    root
        The sweep's folder.
    stem
        Name of the pack's journal and of its parts; unique.
    pack, device
        What to run, and where.
    code, modules
        The code that the sweep was launched with, and the user's own modules (`user_modules`).
    cell_seconds
        Time limit of a cell that the worker sees to itself; None: its launcher does, if anybody.
    exit_on_oom
        Whether the process may end when it has run out of memory: then the next cell finds all of
        it free, whatever this one's code has kept. The launcher finalizes the journal.
    checkpoint_seconds
        How often a cell in training is kept; None: never.
    lease
        A folder for this pack's journal. Where it is gone, somebody else has the pack; where a
        file `stop` lies in it, the worker stops as soon as it can. None: the sweep's own folder of
        journals, and nobody but the launcher stops it.
    """

    root: str
    stem: str
    pack: Pack
    device: str
    code: str
    modules: Mapping[str, str]
    cell_seconds: float | None = None
    exit_on_oom: bool = False
    checkpoint_seconds: float | None = None
    lease: str | None = None

    @property
    def folder(self) -> SweepFolder:
        """The sweep's folder."""
        return SweepFolder(Path(self.root))

    @property
    def journal(self) -> Path:
        """The pack's journal."""
        return Path(self.lease or self.folder.journals) / f"{self.stem}.journal"

    def stopped(self) -> bool:
        """Return True if the worker is to stop."""
        return self.lease is not None and (Path(self.lease) / STOP_FILE).exists()


@runtime_checkable
class Runner(Protocol):
    """A runner of packs: an option of `conf/runner/`."""

    @property
    def device(self) -> str:
        """`auto`, `cpu`, `cuda` or `cuda:N`."""

    @property
    def pack_cells(self) -> int | None:
        """Most cells in a pack; None: by the work in them."""

    @property
    def n_workers(self) -> int:
        """Number of packs that run at once."""

    def worker_memory(self) -> int:
        """Bytes of memory that a worker may use."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function where a pack would run: in a process set up as a worker.

        Raises
        ------
        FaninError
            The process died.
        """

    def run(self, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat) -> None:
        """Run packs to the end, calling `heartbeat` now and then."""


@runtime_checkable
class DetachedRunner(Runner, Protocol):
    """A runner whose packs go on when their launcher has gone."""

    def submit(self, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat) -> None:
        """Hand packs out, and leave them."""

    def cancel(self, folder: SweepFolder, heartbeat: Heartbeat) -> None:
        """Take back what was handed out."""
