"""Layout of one sweep's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DETAIL_TABLES = ("layers", "histograms", "tensors", "curves")
TABLES = (*DETAIL_TABLES, "cells")
"""Tables that a pack writes. `cells` comes last: a pack with `cells` has all of its rows."""

DEFAULT_RESULTS = Path(
    "results"
)  # folder of all sweeps, unless sweep.results or --results names another
TEMPORARY = ".*.part"  # pattern of files that are still being written


@dataclass(frozen=True)
class SweepFolder:
    """`results/NAME/`: the plan, journals of packs in progress, and tables."""

    root: Path

    @property
    def argument(self) -> str:
        """Argument that names this sweep in `fanin status`, `fanin cancel` and others."""
        return self.root.name if self.root.parent == DEFAULT_RESULTS else str(self.root)

    @property
    def plan(self) -> Path:
        """All planned cells, one JSON line each."""
        return self.root / "cells.jsonl"

    @property
    def format(self) -> Path:
        """The format version of this folder."""
        return self.root / "format.json"

    @property
    def provenance(self) -> Path:
        """The request, code, versions and machine of each launch, as YAML."""
        return self.root / "sweep.yaml"

    @property
    def request(self) -> Path:
        """Ids of the cells of the last command that ran or resumed cells here."""
        return self.root / "request.json"

    @property
    def finished(self) -> Path:
        """Ids of the cells of the last command that found all of its cells done."""
        return self.root / "finished.json"

    @property
    def launcher(self) -> Path:
        """Identity of the process that runs this sweep now."""
        return self.root / "launcher.json"

    @property
    def journals(self) -> Path:
        """Folder of journals, one file per pack in progress or interrupted."""
        return self.root / "journals"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints of cells in training: `CELL_ID.pt`."""
        return self.root / "checkpoints"

    @property
    def slurm(self) -> Path:
        """Folder of Slurm submissions, one folder per job array."""
        return self.root / "slurm"

    @property
    def quarantine(self) -> Path:
        """Folder of damaged packs: `TABLE/STEM.parquet`."""
        return self.root / "quarantine"

    @property
    def errors(self) -> Path:
        """Folder of tracebacks of failed cells."""
        return self.root / "errors"

    def table(self, name: str) -> Path:
        """Return the folder of a table's Parquet parts."""
        return self.root / name
