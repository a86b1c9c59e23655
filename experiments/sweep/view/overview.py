"""All sweeps in a folder of results, a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from experiments.sweep.slurm.submission import open_submissions
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.view.enquiry import Enquiry
from experiments.sweep.view.status import Status
from experiments.sweep.view.units import clock
from experiments.sweep.view.watch import Watch
from fanin.errors import FaninError, nearest


def sweeps_in(results: Path) -> Iterator[SweepFolder]:
    """The sweeps that are kept in a folder, by name."""
    for path in sorted(results.glob("*/")):
        folder = SweepFolder(path)
        if is_sweep(folder):
            yield folder


def find_sweep(results: Path, name: str) -> SweepFolder:
    """A sweep's folder, by its name or its path.

    Raises
    ------
    FaninError
        There is no such sweep; the nearest names are listed.
    """
    folder = SweepFolder(results / name)
    if not is_sweep(folder) and is_sweep(SweepFolder(Path(name))):  # as a shell completes it
        folder = SweepFolder(Path(name))
    if not is_sweep(folder):
        there = [folder.root.name for folder in sweeps_in(results)]
        raise FaninError(f"{folder.root}: no such sweep; {nearest(name, there)}")
    return folder


def is_sweep(folder: SweepFolder) -> bool:
    """Whether a sweep was ever launched in a folder."""
    return folder.plan.exists() or folder.launcher.exists() or folder.table("cells").is_dir()


def overview(statuses: Sequence[Status]) -> Table:
    """A table of sweeps."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("sweep", overflow="ellipsis", no_wrap=True, max_width=32)
    for name in ("cells", "done", "failed", "missing"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("last change", no_wrap=True)
    now = datetime.now()
    for status in statuses:
        counts = status.counts
        rest = status.cells - counts["done"] - counts["failed"]
        numbers = (status.cells, counts["done"], counts["failed"], rest)
        changed = None if status.changed is None else datetime.fromtimestamp(status.changed)
        table.add_row(
            Text(status.name, style="bold"),
            *(f"{number:,}" for number in numbers),
            status.state,
            "" if changed is None else clock(changed, now),
        )
    return table


def statuses(results: Path) -> list[Status]:
    """How every sweep in a folder stands."""
    folders = list(sweeps_in(results))
    names: set[str] = set()
    for folder in folders:
        with suppress(FaninError):  # each sweep tells its own faults
            names |= {submission.job_name for submission in open_submissions(folder)}
    answer = Enquiry().look(names)  # one for all
    return [Watch(folder, answer=answer).look(0) for folder in folders]
