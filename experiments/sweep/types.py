"""Types that the packages of the sweep share: cells, packs, jobs for workers, runners."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from experiments.config.instantiate import TARGET
from experiments.sweep.differences import full_label
from experiments.sweep.store.paths import SweepFolder

Assignment = dict[str, Any]
"""Mapping from dotted keys and group names to values: how a cell differs from the default cell."""
Choices = dict[str, str | None]
"""Mapping from config groups to the names of their options."""
EngineName = Literal["serial", "stacked"]
EngineChoice = Literal["serial", "stacked", "auto"]
Heartbeat = Callable[[], None]
"""A callback that long operations call regularly."""

# Cells of a pack differ only in these and in the numbers of their optimizer. So they share data,
# network and warmed-up code, and can be stacked into one program.
VARIES_IN_PACK = ("init", "scaling", "seed", "seed_weights", "seed_data")
GIB = 1 << 30  # bytes
STOP_FILE = "stop"  # its name in the folder of a lease
AUTO_ENGINE_REFUSED = (
    "engine=auto times cells on this machine, not on the cluster's nodes: with runner=slurm use "
    "engine=serial or engine=stacked"
)


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell before it runs: its id, its coerced config and the options that it was built from."""

    id: str
    config: dict[str, Any]
    choices: Choices
    assignment: Assignment

    @property
    def label(self) -> str:
        """The assignment as a command line."""
        return full_label(self.assignment)


@dataclass(frozen=True)
class PackedCell:
    """A cell to run and the number of this attempt.

    `n_lost` counts earlier attempts of this launch whose job was lost.
    """

    cell_id: str
    attempt: int
    config: dict[str, Any]
    choices: Choices
    n_lost: int = 0


@dataclass(frozen=True)
class Pack:
    """Cells that run in one process: `serial`, one after the other; `stacked`, as one program.

    `seconds` estimates how long they take.
    """

    cells: tuple[PackedCell, ...]
    engine: EngineName = "serial"
    seconds: float = 0.0


def pack_key(config: Mapping[str, Any]) -> str:
    """Return the config that the cells of a pack share, as JSON. Such cells take similar time."""
    shared = {key: value for key, value in config.items() if key not in VARIES_IN_PACK}
    return json.dumps(shared | {"optim": config["optim"][TARGET]}, sort_keys=True)


def group_cells(cells: Iterable[PackedCell]) -> dict[str, list[PackedCell]]:
    """Group the cells that can share a pack, by `pack_key`."""
    groups: dict[str, list[PackedCell]] = {}
    for cell in cells:
        groups.setdefault(pack_key(cell.config), []).append(cell)
    return groups


@dataclass(frozen=True)
class PackJob:
    """A pack to run, with everything that a worker needs for it.

    Parameters
    ----------
    root
        Path of the sweep's folder.
    stem
        Unique name of the pack's journal and of its part files.
    pack, device
        The pack, and the device to run it on.
    code, modules
        The code version at launch, and the digests of the user's modules (`user_modules`).
    cell_seconds
        Time limit of a cell, enforced by the worker. None: the worker enforces none.
    exit_on_oom
        End the process after it runs out of memory, so that the next cell starts with all memory
        free. The launcher finalizes the journal.
    checkpoint_seconds
        Seconds between two checkpoints of a cell. None disables them.
    lease
        Folder of this pack's journal. If it disappears, another process has taken the pack over.
        If it contains the file `stop`, the worker stops as soon as possible. None: the journal
        goes to the sweep's own folder of journals, and only the launcher stops the worker.
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
        """Path of the pack's journal."""
        return Path(self.lease or self.folder.journals) / f"{self.stem}.journal"

    def should_stop(self) -> bool:
        """Return True if the worker should stop."""
        return self.lease is not None and (Path(self.lease) / STOP_FILE).exists()


@runtime_checkable
class Runner(Protocol):
    """A runner of packs: an option of `conf/runner/`."""

    @property
    def device(self) -> str:
        """`auto`, `cpu`, `cuda` or `cuda:N`."""

    @property
    def pack_cells(self) -> int | None:
        """Maximum number of cells in a pack. None: chosen by the time that cells take."""

    @property
    def n_workers(self) -> int:
        """Number of packs that run at once."""

    def worker_memory(self) -> int:
        """Return the bytes of memory that a worker may use."""

    def call(
        self, function: Callable[..., Any], *arguments: Any, heartbeat: Heartbeat = lambda: None
    ) -> Any:
        """Call a function in a process that is set up as a worker, and `heartbeat` regularly.

        Raises
        ------
        FaninError
            The process died.
        """

    def run(self, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat) -> None:
        """Run all packs, calling `heartbeat` regularly."""


@runtime_checkable
class DetachedRunner(Runner, Protocol):
    """A runner whose packs keep running after their launcher has ended."""

    @property
    def job_device(self) -> str:
        """`cpu` or `cuda`: the device of the jobs, which this machine may lack."""

    def submit(self, folder: SweepFolder, packs: Sequence[Pack], heartbeat: Heartbeat) -> None:
        """Submit packs without waiting for them."""

    def cancel(self, folder: SweepFolder, heartbeat: Heartbeat) -> None:
        """Cancel submitted packs."""
