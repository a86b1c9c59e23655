"""Reader of a sweep's status, and listing of the sweeps in a folder."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from warnings import warn

from rich.table import Table
from rich.text import Text

from experiments.sweep.slurm.submission import open_submissions
from experiments.sweep.status.format import clock
from experiments.sweep.status.launcher import Launcher, find_launcher
from experiments.sweep.status.slurm import Jobs, SlurmAnswer, SlurmPoller, summarize_jobs
from experiments.sweep.status.snapshot import JournalTail, read_planned
from experiments.sweep.status.status import Scope, Status, compute_status
from experiments.sweep.store.format_version import check_format
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError, FaninWarning, suggest


class StatusReader:
    """Reader of a sweep's status that reads only what is new since the last read.

    Parameters
    ----------
    folder
        Folder of the sweep.
    run
        Ids of the cells of a run that this process starts now. None: all planned cells, whoever
        runs them.
    answer
        Answer of Slurm about the sweep's jobs. None: query Slurm.
    cells
        Ids of the cells to count if `run` is None. None: all cells.
    """

    def __init__(
        self,
        folder: SweepFolder,
        run: Iterable[str] | None = None,
        answer: SlurmAnswer | None = None,
        cells: Set[str] | None = None,
    ) -> None:
        check_format(folder)
        self._folder = folder
        self._scope = None if run is None else Scope(frozenset(run), this_run_only=True)
        self._start = time.monotonic()
        self._answer, self._cells = answer, cells
        self._poller = SlurmPoller(wait_for_first=run is None)  # a launch does not wait for Slurm
        self._read_plan()

    def read(self, max_failures: int | None = None) -> Status:
        """Return the sweep's status with the last `max_failures` failures (None: all)."""
        if self._scope is None and self._launch_time != _mtime(self._folder.provenance):
            self._read_plan()  # the sweep was launched again
        jobs = self._jobs()
        snapshot = self._tail.poll()
        if self._scope is not None:
            launcher: Launcher | None = Launcher(platform.node(), os.getpid(), True, 0.0)
            elapsed, scope = time.monotonic() - self._start, self._scope
        else:
            launcher = find_launcher(self._folder)
            running = (launcher is not None and launcher.is_active) or jobs is not None
            elapsed = self._elapsed(snapshot.last_change, running)
            started = {cell.cell_id for journal in snapshot.journals for cell in journal.started}
            known = self._planned.labels.keys() | snapshot.results.keys() | started
            scope = Scope(known if self._cells is None else known & self._cells)
        return compute_status(
            self._folder, self._planned, snapshot, launcher, elapsed, scope, max_failures, jobs
        )

    def _jobs(self) -> Jobs | None:
        try:
            submissions = open_submissions(self._folder)
        except FaninError as error:
            return Jobs((), note=str(error))
        names = [submission.job_name for submission in submissions]
        return summarize_jobs(submissions, self._answer or self._poller.poll(names))

    def _elapsed(self, last_change: float | None, running: bool) -> float:
        if self._launch_time is None:
            return 0.0
        # Not earlier than the newest file, because the clock may have been set back.
        end = max(time.time(), last_change or 0.0) if running else last_change
        return 0.0 if end is None else max(0.0, end - self._launch_time)

    def _read_plan(self) -> None:
        self._launch_time = _mtime(self._folder.provenance)
        self._planned = read_planned(self._folder)
        since = None if self._scope is not None else self._launch_time
        self._tail = JournalTail(self._folder, since)


def _mtime(path: Path) -> float | None:
    """Return a file's modification time; None if it does not exist."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def sweeps_in(results: Path) -> Iterator[SweepFolder]:
    """Yield the sweeps in a folder, sorted by name."""
    for path in sorted(results.glob("*/")):
        folder = SweepFolder(path)
        if is_sweep(folder):
            yield folder


def find_sweep(results: Path, name: str) -> SweepFolder:
    """Return the folder of a sweep, given its name or its path.

    Raises
    ------
    FaninError
        There is no such sweep (the nearest names are listed), or it has another format version.
    """
    folder = SweepFolder(results / name)
    if not is_sweep(folder) and is_sweep(
        SweepFolder(Path(name))
    ):  # a path, as completed by the shell
        folder = SweepFolder(Path(name))
    if not is_sweep(folder):
        names = [folder.root.name for folder in sweeps_in(results)]
        raise FaninError(f"{folder.root}: no such sweep; {suggest(name, names)}")
    check_format(folder)
    return folder


def is_sweep(folder: SweepFolder) -> bool:
    """Return True if a sweep has been launched in a folder."""
    return folder.plan.exists() or folder.launcher.exists() or folder.table("cells").is_dir()


def overview(statuses: Sequence[Status]) -> Table:
    """Return a table of sweeps with their cells by state."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("sweep", overflow="ellipsis", no_wrap=True, max_width=32)
    for name in ("cells", "done", "failed", "unfinished"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("last change", no_wrap=True)
    now = datetime.now()
    for status in statuses:
        counts = status.counts
        unfinished = status.cells - counts["done"] - counts["failed"]
        numbers = (status.cells, counts["done"], counts["failed"], unfinished)
        seconds = status.last_change
        last_change = None if seconds is None else datetime.fromtimestamp(seconds)
        table.add_row(
            Text(status.name, style="bold"),
            *(f"{number:,}" for number in numbers),
            status.state,
            "" if last_change is None else clock(last_change, now),
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
        with suppress(FaninError):  # the sweep's own status reports it
            names |= {submission.job_name for submission in open_submissions(folder)}
    answer = SlurmPoller().poll(names)  # one query for all sweeps
    return [StatusReader(folder, answer=answer).read(0) for folder in folders]
