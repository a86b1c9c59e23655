"""The layout of one sweep's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from experiments.atomic_write import replace_file
from fanin.errors import FaninError

SIBLINGS = ("layers", "histograms", "tensors", "curves")
TABLES = (*SIBLINGS, "cells")
"""What a pack writes; `cells` comes last, so where a pack has cells it has all of its rows."""

TEMPORARY = ".*.part"  # files that have yet to take their name


@dataclass(frozen=True)
class SweepFolder:
    """`results/NAME/`: the frozen plan, journals of packs in progress, and tables."""

    root: Path

    @property
    def plan(self) -> Path:
        """Every resolved cell, one JSON line each."""
        return self.root / "cells.jsonl"

    @property
    def provenance(self) -> Path:
        """The sweep as asked, code, versions and machine, for people."""
        return self.root / "sweep.yaml"

    @property
    def launcher(self) -> Path:
        """Who runs this sweep now."""
        return self.root / "launcher.json"

    @property
    def journals(self) -> Path:
        """One file for each pack in progress (or that was, when something died)."""
        return self.root / "journals"

    @property
    def checkpoints(self) -> Path:
        """Networks in the middle of their training: `CELL.pt`."""
        return self.root / "checkpoints"

    @property
    def slurm(self) -> Path:
        """What was handed to Slurm: a folder for each job array."""
        return self.root / "slurm"

    @property
    def spoilt(self) -> Path:
        """Parts that were damaged, out of the way: `TABLE/STEM.parquet`."""
        return self.root / "spoilt"

    @property
    def errors(self) -> Path:
        """Tracebacks of cells that failed."""
        return self.root / "errors"

    def table(self, name: str) -> Path:
        """The folder of a table's Parquet parts."""
        return self.root / name


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is either there in full or not at all.

    Raises
    ------
    FaninError
        As `writing`; what stood under this name before still does.
    """
    with writing(path):
        replace_file(path, data)


def sync_folder(path: Path) -> None:
    """Force to disk which files a folder holds: a file's own content is, but for its name."""
    with writing(path):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of a file that can't be written (a full disk, a folder of someone else's) what it means.

    Raises
    ------
    FaninError
        Writing raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise FaninError(
            f"{path}: can't be written ({error.strerror or error}); every cell that was finished "
            "is kept: mend that, and the same command goes on from there"
        ) from error
