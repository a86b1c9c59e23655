"""Texts of the launcher: the plan, counts by state, jobs left on Slurm, and the final summary."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.sweep.differences import full_label
from experiments.sweep.engines import EngineDecisions
from experiments.sweep.grid import Axis
from experiments.sweep.plan import Plan
from experiments.sweep.request import Request
from experiments.sweep.slurm.submission import open_submissions
from experiments.sweep.status.format import duration, plural
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import DONE, CellState
from experiments.sweep.types import DetachedRunner

SHOWN_VALUES = 12  # of an axis


def show_plan(console: Console, request: Request, plan: Plan) -> None:
    """Print each axis with its values, counts by state, packs and the expected time."""
    for number, grid in enumerate(request.grids, start=1):
        title = f"{request.name}" + (f", grid {number}" if len(request.grids) > 1 else "")
        table = Table("axis", "values", title=title, title_justify="left")
        for axis in grid.axes:
            table.add_row(Text(axis.name), Text(_values(axis)))
        for pattern in grid.exclude:
            table.add_row("without", Text(full_label(pattern)))
        if table.rows:
            console.print(table)
    show_counts(console, request, plan)
    if not plan.packs:
        return
    what = (
        f"Would run {plural(plan.pending, 'cell')} in {plural(len(plan.packs), 'pack')} "
        f"({_engines(plan)})"
    )
    outlives = isinstance(request.runner, DetachedRunner)
    if not outlives:
        workers = min(request.runner.n_workers, len(plan.packs))
        where = f"on {plural(workers, 'worker')}: {_expected(plan, workers)}."
        console.print(f"{what} {where}", highlight=False)
    if plan.engines.untimed:
        console.print(
            f"  engine=auto: {plural(len(plan.engines.untimed), 'kind')} of cells to be timings "
            "first, and run under the faster engine",
            highlight=False,
        )
    show_engines(console, plan.engines)
    if outlives:
        # Imported here: it takes a while to load, and most sweeps have no need of it.
        from experiments.sweep.status.slurm_plan import show_slurm_plan

        show_slurm_plan(console, request, plan, what)


def _engines(plan: Plan) -> str:
    counts = Counter(pack.engine for pack in plan.packs)
    return ", ".join(f"{count} {engine}" for engine, count in counts.most_common())


def _expected(plan: Plan, workers: int) -> str:
    seconds = plan.expected_seconds
    if seconds is None:
        return "no timings of such cells yet to say how long it takes"
    if workers == 1:
        return f"about {duration(seconds)}"
    return f"about {duration(seconds / workers)}, {duration(seconds)} of one worker's time"


def _values(axis: Axis) -> str:
    """An axis's values, of many only the first and last few."""
    values = [_short(value, axis.name) for value in axis.values]
    if len(values) > SHOWN_VALUES:
        values = [*values[: SHOWN_VALUES - 2], f"... ({len(values)} values)", values[-1]]
    # What sets one key is short; what sets several has a line of its own.
    return (", " if all(list(value) == [axis.name] for value in axis.values) else "\n").join(values)


def show_counts(console: Console, request: Request, plan: Plan) -> None:
    """Print cells by state, in one line."""
    counts = ", ".join(f"{count} {kind}" for kind, count in plan.counts.items())
    cells = plural(len(plan.cells), "cell")
    console.print(f"{request.name}: {cells}: {counts}", highlight=False)
    failed = plan.counts["failed"]
    if failed and not request.settings.retry:
        console.print("  (sweep.retry=[error,oom,timeout] runs failed cells again)", markup=False)


def show_engines(console: Console, engines: EngineDecisions) -> None:
    """Print what timing found, and what can't be stacked and why."""
    for engine, count in Counter(engines.chosen[key] for key in engines.timings).items():
        ratios = [s / t for key, (s, t) in engines.timings.items() if engines.chosen[key] == engine]
        console.print(
            f"  {engine}: {plural(count, 'kind')}; stacked is {min(ratios):.2f} to "
            f"{max(ratios):.2f} times as fast as serial",
            highlight=False,
        )
    for reason, count in Counter(engines.reasons.values()).items():
        first = reason.partition("\n")[0]
        console.print(f"  serial: {plural(count, 'kind')} can't be stacked: {first}", markup=False)


def show_end(
    console: Console, request: Request, states: Mapping[str, CellState], asked: int
) -> int:
    """Print how the cells ended and where they are; the exit status."""
    outcomes = Counter(state.outcome for state in states.values())
    counted = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    folder = request.folder
    told = f"{request.name}: {counted}; tables in {folder.root}/"
    console.print(told, highlight=False, markup=False, soft_wrap=True)
    bad = [(key, state) for key, state in states.items() if state.outcome not in DONE]
    # What went wrong in many cells is said once.
    faults = Counter((state.outcome, state.reason) for _, state in bad)
    for (outcome, reason), count in faults.most_common(5):
        key = next(key for key, s in bad if (s.outcome, s.reason) == (outcome, reason))
        which = key if count == 1 else f"{count} cells, one of them {key}"
        said = (reason or "").partition("\n")[0]
        # Whole, so that paths and ids in a log can be searched for and pasted.
        told = f"  {outcome}: {said} ({which})"
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    if bad and folder.errors.exists():  # what was killed has left none
        console.print(f"  tracebacks: {folder.errors}/", highlight=False, soft_wrap=True)
    if missing := asked - len(states):
        console.print(f"  {missing} cells left no result; the same command runs them again")
    return 1 if bad or missing else 0


def _short(assignment: Mapping[str, Any], name: str) -> str:
    if list(assignment) == [name]:
        return str(assignment[name])
    return full_label(dict(assignment))


def show_jobs(console: Console, folder: SweepFolder) -> None:
    """Name the jobs that are under way, and the commands that go on from here."""
    there = open_submissions(folder)
    if not there:
        return
    count = sum(len(submission.open_indices()) for submission in there)
    ids = ", ".join(submission.job_id() or "not yet numbered" for submission in there)
    console.print(
        f"{plural(count, 'job')} under way on Slurm: {ids}. The same command waits for them; "
        f"python -m experiments.status {folder.root.name} tells how they are; "
        f"python -m experiments.cancel {folder.root.name} stops them.",
        highlight=False,
        soft_wrap=True,
    )


def asks_to_cancel(folder: SweepFolder, console: Console) -> bool:
    """Return True if somebody at the terminal wants the jobs cancelled; nobody there: False."""
    there = open_submissions(folder)
    if not there or not sys.stdin.isatty():
        return False
    count = sum(len(submission.open_indices()) for submission in there)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C again: leave them
    try:
        them = "it to itself" if count == 1 else "them to themselves"
        asked = f"{plural(count, 'job')} under way on Slurm. [L]eave {them}, or [c]ancel? "
        return console.input(asked, markup=False).strip().lower().startswith("c")
    except (EOFError, KeyboardInterrupt):
        return False
    finally:
        signal.signal(signal.SIGINT, before)
