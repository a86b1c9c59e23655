"""From what the files say to how the sweep stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set

from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import DONE, FAILED
from experiments.sweep.view.expect import seconds_left, typical_seconds
from experiments.sweep.view.failures import failures
from experiments.sweep.view.jobs import Jobs
from experiments.sweep.view.launcher import Launcher
from experiments.sweep.view.planned import Planned
from experiments.sweep.view.seen import Begun, OpenJournal, Result, Seen
from experiments.sweep.view.status import Scope, State, Status
from experiments.sweep.view.workers import is_busy, worker_at

STATES = ("done", "failed", "interrupted", "running", "missing")


def assess(
    folder: SweepFolder,
    planned: Planned,
    seen: Seen,
    launcher: Launcher | None,
    elapsed: float,
    scope: Scope,
    last: int | None = None,
    jobs: Jobs | None = None,
) -> Status:
    """Sum up what the files say.

    Parameters
    ----------
    elapsed
        Seconds since the sweep's present run began.
    scope
        Which cells count.
    last
        How many failures to describe; None: all.
    jobs
        A cluster's, that have cells of the sweep in hand.
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
