"""Status of a sweep: its cells by state, its workers and failures, and the remaining time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Literal

from experiments.sweep.status.eta import estimate_cell_seconds, estimate_seconds_left
from experiments.sweep.status.failures import Failure, describe_failures
from experiments.sweep.status.launcher import Launcher, age
from experiments.sweep.status.slurm import Jobs
from experiments.sweep.status.snapshot import (
    OpenJournal,
    PlannedCells,
    Result,
    Snapshot,
    StartedCell,
)
from experiments.sweep.store.lock import STALE_SECONDS
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import DONE, FAILED

State = Literal["running", "queued", "stopped", "finished"]
STATES = ("done", "failed", "interrupted", "running", "missing")


@dataclass(frozen=True)
class Scope:
    """Cells to count; `this_run_only` ignores results from before the sweep's current run."""

    cells: Set[str]
    this_run_only: bool = False


@dataclass(frozen=True)
class RunningCell:
    """A running cell.

    Attributes
    ----------
    progress
        Finished fraction of its training steps, 0 to 1.
    seconds
        Time since this process first read that the cell runs.
    lower_bound
        True if the cell started before that, so it has run longer than `seconds`.
    """

    cell_id: str
    label: str
    progress: float
    seconds: float
    lower_bound: bool


@dataclass(frozen=True)
class Worker:
    """A process that runs cells; `heartbeat_age` is the time since it last wrote (seconds)."""

    host: str
    pid: int
    device: str | None
    heartbeat_age: float
    cells: tuple[RunningCell, ...]


@dataclass(frozen=True)
class Status:
    """Status of a sweep.

    Attributes
    ----------
    counts
        Number of cells by state: done, failed, interrupted, running, missing. Every cell has one.
    outcomes
        Number of cells by outcome, without cells that are running again.
    elapsed
        Duration of the sweep's current run (seconds).
    cells_per_minute, seconds_left
        Rate and expected remaining time of this run. None if unknown or not running.
    failures
        Failures in the order in which they were read.
    engines, code_versions
        Number of cells by engine, and by version of the code.
    warnings
        Messages of workers and about unreadable files.
    last_change
        Modification time of the newest file (seconds since 1970). None: there are no files.
    jobs
        Slurm jobs with unfinished cells. None: there are none.
    """

    name: str
    folder: SweepFolder
    state: State
    cells: int
    counts: Mapping[str, int]
    outcomes: Mapping[str, int]
    launcher: Launcher | None
    workers: tuple[Worker, ...]
    elapsed: float
    cells_per_minute: float | None
    seconds_left: float | None
    failures: tuple[Failure, ...]
    engines: Mapping[str, int]
    code_versions: Mapping[str, int]
    warnings: tuple[str, ...]
    last_change: float | None
    jobs: Jobs | None = None

    @property
    def finished(self) -> int:
        """Number of cells that would not run again: done or failed."""
        return self.counts["done"] + self.counts["failed"]


def has_active_writer(journal: OpenJournal, launcher_active: bool, jobs: Jobs | None) -> bool:
    """Return True if a journal's writer is known or assumed to be running."""
    if journal.expired:
        return False
    alive = None if journal.writer is None else journal.writer.process.is_running()
    if alive is not None:
        return alive
    if journal.lease is not None and jobs is not None and jobs.running_leases is not None:
        return journal.lease in jobs.running_leases
    return (launcher_active and journal.lease is None) or age(journal.modified) < STALE_SECONDS


def describe_worker(journal: OpenJournal, planned: PlannedCells) -> Worker:
    """Return the worker that writes a journal, with its running cells."""
    now, heartbeat_age, writer = time.monotonic(), age(journal.modified), journal.writer
    cells = tuple(
        RunningCell(
            cell.cell_id,
            planned.labels.get(cell.cell_id, cell.cell_id),
            cell.progress,
            now - cell.first_seen,
            not cell.seen_at_start,
        )
        for cell in journal.started
    )
    if writer is None:
        return Worker("unknown", 0, None, heartbeat_age, cells)
    device, process = writer.about.get("device"), writer.process
    device_name = None if device is None else str(device)
    return Worker(process.host, process.pid, device_name, heartbeat_age, cells)


def compute_status(
    folder: SweepFolder,
    planned: PlannedCells,
    snapshot: Snapshot,
    launcher: Launcher | None,
    elapsed: float,
    scope: Scope,
    max_failures: int | None = None,
    jobs: Jobs | None = None,
) -> Status:
    """Compute a sweep's status.

    Parameters
    ----------
    folder, planned, snapshot
        Folder of the sweep and the contents of its files.
    launcher
        Process that launched the sweep. None: there is no lock file.
    elapsed
        Time since the sweep's current run started (seconds).
    scope
        Cells to count.
    max_failures
        Maximum number of failures to describe. None: all.
    jobs
        Slurm jobs with unfinished cells of the sweep. None: there are none.
    """
    launcher_active = launcher is not None and launcher.is_active
    jobs_running = jobs is not None and jobs.total("running") > 0
    active = [
        journal
        for journal in snapshot.journals
        if has_active_writer(journal, launcher_active, jobs)
    ]
    inactive = [journal for journal in snapshot.journals if journal not in active]
    running = _started_cells(active)
    interrupted = {
        cell_id
        for cell_id, cell in _started_cells(inactive).items()
        if _is_newer(cell, snapshot.results.get(cell_id))
    }
    ended = {
        cell_id: result
        for cell_id, result in snapshot.results.items()
        if (result.this_run or not scope.this_run_only)
        and cell_id in scope.cells
        and cell_id not in running
        and cell_id not in interrupted
    }
    states = {
        cell_id: _cell_state(cell_id, ended, running.keys(), interrupted) for cell_id in scope.cells
    }
    counts = Counter(states.values())
    finished = [
        cell_id
        for cell_id, result in ended.items()
        if result.this_run and states[cell_id] in ("done", "failed")
    ]
    seconds_left = cells_per_minute = None
    if launcher_active or jobs_running:
        cell_seconds, measured = estimate_cell_seconds(
            snapshot.results, planned.kinds, planned.seconds
        )
        workers = [
            {cell.cell_id: cell.progress for cell in journal.started}
            for journal in active
            if journal.started
        ]
        waiting = [
            cell_id for cell_id, state in states.items() if state in ("missing", "interrupted")
        ]
        # With Slurm jobs the elapsed time includes time in the queue, so it says nothing about the
        # rate.
        if jobs is None:
            seconds_left = estimate_seconds_left(
                cell_seconds, measured, finished, workers, waiting, elapsed
            )
        elif measured:
            parallel = max(jobs.total("running"), 1)
            seconds_left = estimate_seconds_left(
                cell_seconds, measured, [], workers, waiting, elapsed, parallel
            )
        cells_per_minute = 60 * len(finished) / elapsed if finished and elapsed > 0 else None
    code_versions = _count(result.code for result in ended.values())
    warnings = (*planned.unreadable, *snapshot.unreadable, *snapshot.notes)
    return Status(
        name=folder.root.name,
        folder=folder,
        state=_sweep_state(launcher_active, counts, jobs),
        cells=len(states),
        counts={state: counts[state] for state in STATES},
        outcomes=_count(result.outcome for result in ended.values()),
        launcher=launcher,
        workers=tuple(describe_worker(journal, planned) for journal in active if journal.started),
        elapsed=elapsed,
        cells_per_minute=cells_per_minute,
        seconds_left=seconds_left,
        failures=describe_failures(folder, planned, ended, max_failures),
        engines=_count(result.engine for result in ended.values()),
        code_versions=code_versions,
        warnings=(*warnings, *_warn_versions(code_versions)),
        last_change=snapshot.last_change,
        jobs=jobs,
    )


def _started_cells(journals: Iterable[OpenJournal]) -> dict[str, StartedCell]:
    return {cell.cell_id: cell for journal in journals for cell in journal.started}


def _is_newer(cell: StartedCell, result: Result | None) -> bool:
    return result is None or cell.attempt > result.attempt


def _cell_state(
    cell_id: str, ended: Mapping[str, Result], running: Set[str], interrupted: Set[str]
) -> str:
    if cell_id in running:
        return "running"
    if cell_id in interrupted:
        return "interrupted"
    if cell_id not in ended:
        return "missing"
    outcome = ended[cell_id].outcome
    if outcome in DONE:
        return "done"
    return "failed" if outcome in FAILED else "interrupted"


def _sweep_state(launcher_active: bool, counts: Mapping[str, int], jobs: Jobs | None) -> State:
    if launcher_active or counts["running"]:
        return "running"
    if jobs is not None and jobs.active:
        return "running" if jobs.total("running") else "queued"
    return "stopped" if counts["missing"] or counts["interrupted"] else "finished"


def _warn_versions(code_versions: Mapping[str, int]) -> Iterator[str]:
    if len(code_versions) > 1:
        counts = ", ".join(f"{code} ({count} cells)" for code, count in code_versions.items())
        yield f"results of {len(code_versions)} versions of the code: {counts}"


def _count(values: Iterable[str | None]) -> dict[str, int]:
    return dict(Counter(value for value in values if value is not None).most_common())
