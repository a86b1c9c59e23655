"""What a worker is told to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Pack

STOP = "stop"  # a file's name


@dataclass(frozen=True)
class Order:
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
        The code that the sweep was launched with, and the user's own modules (`own_modules`).
    cell_seconds
        Time limit of a cell that the worker sees to itself; None: its launcher does, if anybody.
    replaceable
        Whether the process may end when it has run out of memory: then the next cell finds all of
        it free, whatever this one's code has kept. The launcher settles the journal.
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
    replaceable: bool = False
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
        """Whether the worker is to stop."""
        return self.lease is not None and (Path(self.lease) / STOP).exists()
