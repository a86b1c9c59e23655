"""The layout of one sweep's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DETAIL_TABLES = ("layers", "histograms", "tensors", "curves")
TABLES = (*DETAIL_TABLES, "cells")
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
    def format(self) -> Path:
        """The format version of this folder."""
        return self.root / "format.json"

    @property
    def provenance(self) -> Path:
        """The sweep as asked, code, versions and machine, for people."""
        return self.root / "sweep.yaml"

    @property
    def launcher(self) -> Path:
        """The process that runs this sweep now."""
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
        """Submissions to Slurm: a folder for each job array."""
        return self.root / "slurm"

    @property
    def quarantine(self) -> Path:
        """Parts that were damaged, out of the way: `TABLE/STEM.parquet`."""
        return self.root / "quarantine"

    @property
    def errors(self) -> Path:
        """Tracebacks of cells that failed."""
        return self.root / "errors"

    def table(self, name: str) -> Path:
        """Return the folder of a table's Parquet parts."""
        return self.root / name
