"""A sweep's status as often as one asks, and the sweeps that a folder of results holds."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from warnings import warn

from rich.table import Table
from rich.text import Text

from experiments.sweep.slurm.submission import open_submissions
from experiments.sweep.status.format import clock
from experiments.sweep.status.slurm import Answer, Jobs, SlurmPoller, jobs_of
from experiments.sweep.status.snapshot import JournalTail, read_planned
from experiments.sweep.status.status import Launcher, Scope, Status, compute_status, find_launcher
from experiments.sweep.store.format_version import check_format
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError, FaninWarning, suggest


class Watch:
    """A sweep's status, as often as one asks.

    Parameters
    ----------
    folder
        The sweep's.
    run
        The cells of a run that this process begins now; None: whatever is planned there, by
        whomever.
    answer
        What Slurm has said of the sweep's jobs; None: it is asked.
    """

    def __init__(
        self,
        folder: SweepFolder,
        run: Iterable[str] | None = None,
        answer: Answer | None = None,
    ) -> None:
        check_format(folder)
        self._folder = folder
        self._run = None if run is None else Scope(frozenset(run), fresh=True)
        self._began = time.monotonic()
        self._answer = answer
        self._enquiry = SlurmPoller(waits=run is None)  # what is launched is never held up
        self._read_plan()

    def look(self, last: int | None = None) -> Status:
        """Return the sweep's status; `last` is how many failures to describe (None: all)."""
        if self._run is None and self._launched != _written(self._folder.provenance):
            self._read_plan()  # it was launched anew
        jobs = self._jobs()
        seen = self._follower.look()
        if self._run is not None:
            launcher: Launcher | None = Launcher(platform.node(), os.getpid(), True, 0.0)
            elapsed, scope = time.monotonic() - self._began, self._run
        else:
            launcher = find_launcher(self._folder)
            at_work = (launcher is not None and launcher.at_work) or jobs is not None
            elapsed = self._elapsed(seen.changed, at_work)
            begun = {each.cell_id for journal in seen.journals for each in journal.begun}
            scope = Scope(self._planned.labels.keys() | seen.results.keys() | begun)
        return compute_status(
            self._folder, self._planned, seen, launcher, elapsed, scope, last, jobs
        )

    def _jobs(self) -> Jobs | None:
        try:
            there = open_submissions(self._folder)
        except FaninError as error:
            return Jobs((), note=str(error))
        answer = self._answer or self._enquiry.look([each.job_name for each in there])
        return jobs_of(there, answer)

    def _elapsed(self, changed: float | None, at_work: bool) -> float:
        if self._launched is None:
            return 0.0
        # Never before the newest file: the clock may have jumped back.
        until = max(time.time(), changed or 0.0) if at_work else changed
        return 0.0 if until is None else max(0.0, until - self._launched)

    def _read_plan(self) -> None:
        self._launched = _written(self._folder.provenance)
        self._planned = read_planned(self._folder)
        since = None if self._run is not None else self._launched
        self._follower = JournalTail(self._folder, since)


def _written(path: Path) -> float | None:
    """Return when a file was written, by the file system's clock; None if there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


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
        There is no such sweep (the nearest names are listed), or it has another format version.
    """
    folder = SweepFolder(results / name)
    if not is_sweep(folder) and is_sweep(SweepFolder(Path(name))):  # as a shell completes it
        folder = SweepFolder(Path(name))
    if not is_sweep(folder):
        there = [folder.root.name for folder in sweeps_in(results)]
        raise FaninError(f"{folder.root}: no such sweep; {suggest(name, there)}")
    check_format(folder)
    return folder


def is_sweep(folder: SweepFolder) -> bool:
    """Return True if a sweep was ever launched in a folder."""
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
    """Return the status of every sweep in a folder; warn of those with another format version."""
    folders = []
    for folder in sweeps_in(results):
        try:
            check_format(folder)
        except FaninError as error:
            warn(str(error), FaninWarning, stacklevel=2)
        else:
            folders.append(folder)
    names: set[str] = set()
    for folder in folders:
        with suppress(FaninError):  # each sweep tells its own faults
            names |= {submission.job_name for submission in open_submissions(folder)}
    answer = SlurmPoller().look(names)  # one for all
    return [Watch(folder, answer=answer).look(0) for folder in folders]
