"""The layout of one sweep's folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TABLES = ("layers", "histograms", "curves", "cells")
"""What a pack writes; `cells` comes last, so where a pack has cells it has all of its rows."""


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
    def errors(self) -> Path:
        """Tracebacks of cells that failed."""
        return self.root / "errors"

    def table(self, name: str) -> Path:
        """The folder of a table's Parquet parts."""
        return self.root / name


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is either there in full or not at all.

    The bytes go to a temporary file beside it, are forced to disk, and take their name in one
    rename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
