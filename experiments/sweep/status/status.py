"""Status of a sweep: its cells by state, its workers and failures, and the time that is left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.sweep.status.eta import seconds_left, typical_seconds
from experiments.sweep.status.slurm import Jobs
from experiments.sweep.status.snapshot import Begun, OpenJournal, Planned, Result, Snapshot
from experiments.sweep.store.lock import FRESH, read_launcher
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import DONE, FAILED

State = Literal["running", "queued", "stopped", "finished"]
FAILURES = (*FAILED, "killed", "node_fail")  # whoever cancels a cell knows why
STATES = ("done", "failed", "interrupted", "running", "missing")


@dataclass(frozen=True)
class Scope:
    """The cells that count; `fresh`: only with what became of them in the sweep's present run."""

    cells: Set[str]
    fresh: bool = False


@dataclass(frozen=True)
class RunningCell:
    """A cell in progress: the share of its steps that is done, and how long it has run.

    `at_least`: it had begun before anybody looked, so it has run longer than `seconds`.
    """

    cell_id: str
    label: str
    share: float
    seconds: float
    at_least: bool


@dataclass(frozen=True)
class Worker:
    """A process at work, and seconds since it last wrote."""

    host: str
    pid: int
    device: str | None
    heard: float
    cells: tuple[RunningCell, ...]


@dataclass(frozen=True)
class Status:
    """Status of a sweep.

    Attributes
    ----------
    counts
        Cells by state: done, failed, interrupted, running, missing; every cell has one.
    outcomes
        Cells by outcome, of those that have one and don't run again just now.
    elapsed
        Seconds of this run of the sweep.
    per_minute, left
        Cells a minute in this run, and seconds to its end; None where not known, or not running.
    failures
        In the order in which they came.
    engines, codes
        Cells by engine, and by version of the code.
    warnings
        What somebody should know.
    changed
        When the newest file was written (seconds since 1970); None: nothing was.
    jobs
        A cluster's, that have cells in hand; None: there are none.
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
    per_minute: float | None
    left: float | None
    failures: tuple[Failure, ...]
    engines: Mapping[str, int]
    codes: Mapping[str, int]
    warnings: tuple[str, ...]
    changed: float | None
    jobs: Jobs | None = None


@dataclass(frozen=True)
class Launcher:
    """The process that runs a sweep.

    Attributes
    ----------
    alive
        None where it is on another host, and can't be known here.
    heard
        Seconds since it last gave a sign.
    """

    host: str
    pid: int
    alive: bool | None
    heard: float

    @property
    def at_work(self) -> bool:
        """True if it runs, as far as can be told from here."""
        return self.heard < FRESH if self.alive is None else self.alive


def find_launcher(folder: SweepFolder) -> Launcher | None:
    """Return the launcher that has left its note; None where there is no note."""
    note = read_launcher(folder.launcher)
    if note is None:
        return None
    try:
        heard = age(folder.launcher.stat().st_mtime)
    except FileNotFoundError:  # it has ended just now
        return None
    return Launcher(note.host, note.pid, note.is_running(), heard)


def age(written: float) -> float:
    """Seconds since a file was written; a clock that has jumped back makes none younger than 0."""
    return max(0.0, time.time() - written)


@dataclass(frozen=True)
class Failure:
    """A cell that left no measurements; `traceback` is None where nobody could write one."""

    cell_id: str
    label: str
    outcome: str
    attempt: int
    reason: str | None
    traceback: Path | None

    @property
    def said(self) -> str:
        """The reason's first line."""
        return (self.reason or "").partition("\n")[0]


def failures(
    folder: SweepFolder, planned: Planned, results: Mapping[str, Result], last: int | None = None
) -> tuple[Failure, ...]:
    """Return the last so many cells that failed, in the order in which that was seen."""
    bad = [cell for cell, result in results.items() if result.outcome in FAILURES]
    bad.sort(key=lambda cell: results[cell].order)
    start = 0 if last is None else max(0, len(bad) - last)
    return tuple(_failure(folder, planned, cell, results[cell]) for cell in bad[start:])


def _failure(folder: SweepFolder, planned: Planned, cell: str, result: Result) -> Failure:
    path = folder.errors / f"{cell}.{result.attempt}.txt"
    there, reason = path.exists(), result.reason
    if reason is None and there:  # its pack has not ended, and no row says it yet
        with suppress(OSError):
            reason = path.read_text(errors="replace").partition("\n")[0]
    label = planned.labels.get(cell, cell)
    return Failure(cell, label, result.outcome, result.attempt, reason, path if there else None)


def is_busy(journal: OpenJournal, at_work: bool, jobs: Jobs | None) -> bool:
    """Return True if a journal's writer is known or assumed to be running."""
    alive = None if journal.writer is None else journal.writer.process.is_running()
    if journal.over or alive is not None:
        return bool(alive) and not journal.over
    if journal.element is not None and jobs is not None and jobs.at_work is not None:
        return journal.element in jobs.at_work
    return (at_work and journal.element is None) or age(journal.grew) < FRESH


def worker_at(journal: OpenJournal, planned: Planned) -> Worker:
    """Return the worker that writes a journal, with its cells in progress."""
    now, heard, writer = time.monotonic(), age(journal.grew), journal.writer
    cells = tuple(
        RunningCell(
            each.cell_id,
            planned.labels.get(each.cell_id, each.cell_id),
            each.share,
            now - each.since,
            not each.from_start,
        )
        for each in journal.begun
    )
    if writer is None:
        return Worker("unknown", 0, None, heard, cells)
    device, process = writer.about.get("device"), writer.process
    return Worker(process.host, process.pid, None if device is None else str(device), heard, cells)


def compute_status(
    folder: SweepFolder,
    planned: Planned,
    seen: Snapshot,
    launcher: Launcher | None,
    elapsed: float,
    scope: Scope,
    last: int | None = None,
    jobs: Jobs | None = None,
) -> Status:
    """Compute a sweep's status from its files.

    `elapsed` is the time since the sweep's present run began (seconds), `last` how many failures to
    describe (None: all), `jobs` a cluster's, that have cells of the sweep in hand.
    """
    at_work = launcher is not None and launcher.at_work
    on_cluster = jobs is not None and jobs.total("running") > 0
    busy = [journal for journal in seen.journals if is_busy(journal, at_work, jobs)]
    idle = [journal for journal in seen.journals if journal not in busy]
    running = _begun(busy)
    lost = {cell for cell, each in _begun(idle).items() if _is_new(each, seen.results.get(cell))}
    ended = {
        cell: result
        for cell, result in seen.results.items()
        if (result.fresh or not scope.fresh)
        and cell in scope.cells
        and cell not in running
        and cell not in lost
    }
    states = {cell: _state(cell, ended, running.keys(), lost) for cell in scope.cells}
    counts = Counter(states.values())
    finished = [cell for cell, result in ended.items() if result.fresh]
    left = per_minute = None
    if at_work or on_cluster:
        weight, measured = typical_seconds(seen.results, planned.kinds)
        shares = {cell: each.share for cell, each in running.items()}
        waiting = [cell for cell, state in states.items() if state in ("missing", "interrupted")]
        # What a sweep did so far tells nothing where it has waited for a cluster.
        told = [] if jobs is not None and measured else finished
        left = seconds_left(weight, measured, told, shares, waiting, elapsed)
        per_minute = 60 * len(finished) / elapsed if finished and elapsed > 0 else None
    codes = _counted(result.code for result in ended.values())
    return Status(
        name=folder.root.name,
        folder=folder,
        state=_stands(at_work, counts, jobs),
        cells=len(states),
        counts={state: counts[state] for state in STATES},
        outcomes=_counted(result.outcome for result in ended.values()),
        launcher=launcher,
        workers=tuple(worker_at(journal, planned) for journal in busy if journal.begun),
        elapsed=elapsed,
        per_minute=per_minute,
        left=left,
        failures=failures(folder, planned, ended, last),
        engines=_counted(result.engine for result in ended.values()),
        codes=codes,
        warnings=(*planned.faults, *seen.faults, *seen.notes, *_versions(codes)),
        changed=seen.changed,
        jobs=jobs,
    )


def _begun(journals: Iterable[OpenJournal]) -> dict[str, Begun]:
    return {each.cell_id: each for journal in journals for each in journal.begun}


def _is_new(begun: Begun, before: Result | None) -> bool:
    return before is None or begun.attempt > before.attempt


def _state(cell: str, ended: Mapping[str, Result], running: Set[str], lost: Set[str]) -> str:
    if cell in running:
        return "running"
    if cell in lost:
        return "interrupted"
    if cell not in ended:
        return "missing"
    outcome = ended[cell].outcome
    if outcome in DONE:
        return "done"
    return "failed" if outcome in FAILED else "interrupted"


def _stands(at_work: bool, counts: Mapping[str, int], jobs: Jobs | None) -> State:
    if at_work or counts["running"]:
        return "running"
    if jobs is not None and jobs.under_way:
        return "running" if jobs.total("running") else "queued"
    return "stopped" if counts["missing"] or counts["interrupted"] else "finished"


def _versions(codes: Mapping[str, int]) -> Iterator[str]:
    if len(codes) > 1:
        each = ", ".join(f"{code} ({count} cells)" for code, count in codes.items())
        yield f"results of {len(codes)} versions of the code: {each}"


def _counted(words: Iterable[str | None]) -> dict[str, int]:
    return dict(Counter(word for word in words if word is not None).most_common())
