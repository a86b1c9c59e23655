"""Output of the launcher: plan, cells by state, active Slurm jobs, and the final summary."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.console import ask
from experiments.sweep.differences import full_label
from experiments.sweep.grid import Axis
from experiments.sweep.request import Request
from experiments.sweep.slurm.submission import open_submissions
from experiments.sweep.status.format import duration, plural
from experiments.sweep.status.results import chance_accuracies, result_lines
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import read_plan
from experiments.sweep.store.tables import DONE, CellState
from experiments.sweep.types import DetachedRunner
from fanin.commands import command_line

if TYPE_CHECKING:  # they load torch
    from experiments.sweep.engines import EngineDecisions
    from experiments.sweep.plan import Plan

MAX_SHOWN_VALUES = 12  # values of an axis


def show_plan(
    console: Console, request: Request, plan: Plan, data_notes: Sequence[str] = ()
) -> None:
    """Print each axis with its values, counts by state, packs, notes and the expected time."""
    for number, grid in enumerate(request.grids, start=1):
        title = f"{request.name}" + (f", grid {number}" if len(request.grids) > 1 else "")
        table = Table("axis", "values", title=title, title_justify="left")
        for axis in grid.axes:
            table.add_row(Text(axis.name), Text(_values(axis)))
        for pattern in grid.exclude:
            table.add_row("exclude", Text(full_label(pattern)))
        if table.rows:
            console.print(table)
    show_counts(console, request, plan.counts)
    if not plan.packs:
        return
    summary = (
        f"Would run {plural(plan.pending, 'cell')} in {plural(len(plan.packs), 'pack')} "
        f"({_engines(plan)})"
    )
    detached = isinstance(request.runner, DetachedRunner)
    if not detached:
        workers = min(request.runner.n_workers, len(plan.packs))
        where = f"on {plural(workers, 'worker')}: {_expected(plan, workers)}."
        console.print(f"{summary} {where}", highlight=False)
    if plan.engines.untimed:
        console.print(
            f"  engine=auto: {plural(len(plan.engines.untimed), 'kind')} of cells will be "
            "timed first, then run with the faster engine",
            highlight=False,
        )
    show_engines(console, plan.engines)
    for line in data_notes:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"  {times_text(plan, request.settings.pilot)}", highlight=False, soft_wrap=True)
    if detached:
        # Imported here because it loads slowly and most sweeps do not need it.
        from experiments.sweep.status.slurm_plan import show_slurm_plan

        show_slurm_plan(console, request, plan, summary)


def _engines(plan: Plan) -> str:
    counts = Counter(pack.engine for pack in plan.packs)
    return ", ".join(f"{count} {engine}" for engine, count in counts.most_common())


def _expected(plan: Plan, workers: int) -> str:
    seconds = plan.expected_seconds
    if workers == 1:
        return f"about {duration(seconds)}"
    return f"about {duration(seconds / workers)}, {duration(seconds)} of one worker's time"


def times_text(plan: Plan, pilot: bool = False) -> str:
    """Describe the times of cells that set the size of packs and jobs, and their source."""
    times = plan.times
    seconds = [times.seconds[key] for key in plan.groups]
    text = " to ".join(dict.fromkeys(map(duration, (min(seconds), max(seconds)))))
    unmeasured = [key for key in plan.groups if key not in times.measured]
    if not unmeasured:
        return f"time of a cell: {text}, the median of finished cells"
    source = "operation counts at the speed of one CPU core"
    if times.scale is not None:
        source = "operation counts and the times of other cells"
    n_kinds = plural(len(unmeasured), "kind")
    text = f"time of a cell: {text}, estimated from {source} for {n_kinds} of cells"
    if pilot and plan.untried:
        n_pilots = plural(len(plan.untried), "cell")
        return (
            f"{text}; sweep.pilot=true runs {n_pilots} first and sizes packs by the measured time"
        )
    if plan.untried:
        return f"{text}; add sweep.pilot=true to measure one cell of each kind first"
    return text


def show_pilot(console: Console, plan: Plan) -> None:
    """Print that one cell of each kind runs before the others."""
    first = plural(len(plan.untried), "cell")
    kinds = plural(len(plan.untried) + len(plan.awaited), "kind")
    console.print(
        f"sweep.pilot=true: running {first} first, to measure the time of {kinds} of cells",
        highlight=False,
    )


def show_packing(console: Console, plan: Plan) -> None:
    """Print the measured times of the pilot cells, and the packs that they lead to."""
    if plan.packs:
        packs = plural(len(plan.packs), "pack")
        console.print(
            f"{times_text(plan)}: {plural(plan.pending, 'cell')} in {packs}",
            highlight=False,
            soft_wrap=True,
        )


def _values(axis: Axis) -> str:
    """Return an axis's values as text; of many values the first few and the last."""
    values = [_value_label(value, axis.name) for value in axis.values]
    if len(values) > MAX_SHOWN_VALUES:
        values = [*values[: MAX_SHOWN_VALUES - 2], f"... ({len(values)} values)", values[-1]]
    # A value that sets several keys is long, so it gets its own line.
    sets_one_key = all(list(value) == [axis.name] for value in axis.values)
    return (", " if sets_one_key else "\n").join(values)


def show_counts(console: Console, request: Request, counts: Mapping[str, int]) -> None:
    """Print the number of cells by state in one line."""
    by_state = ", ".join(f"{count} {state}" for state, count in counts.items())
    cells = plural(sum(counts.values()), "cell")
    console.print(f"{request.name}: {cells}: {by_state}", highlight=False)
    if counts["failed"] and not request.settings.retry:
        console.print(
            "  (add sweep.retry=[error,oom,timeout] to run failed cells again)", markup=False
        )


def show_engines(console: Console, engines: EngineDecisions) -> None:
    """Print the results of timing the engines, and why some cells cannot be stacked."""
    for engine, count in Counter(engines.chosen[key] for key in engines.timings).items():
        ratios = [s / t for key, (s, t) in engines.timings.items() if engines.chosen[key] == engine]
        speed = " to ".join(dict.fromkeys(f"{r:.2f}" for r in (min(ratios), max(ratios))))
        console.print(
            f"  {engine}: {plural(count, 'kind')} of cells; stacked is {speed} times as fast as "
            "serial",
            highlight=False,
        )
    for reason, count in Counter(engines.reasons.values()).items():
        first = reason.partition("\n")[0]
        console.print(
            f"  serial: {plural(count, 'kind')} of cells can't be stacked: {first}", markup=False
        )


def show_end(
    console: Console, request: Request, states: Mapping[str, CellState], n_requested: int
) -> int:
    """Print outcomes, failures, results and the next commands; return the exit status."""
    outcomes = Counter(state.outcome for state in states.values())
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    folder = request.folder
    line = f"{request.name}: {counts}; tables in {folder.root}/"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    failed = [(cell_id, state) for cell_id, state in states.items() if state.outcome not in DONE]
    # Print the same reason of many cells once.
    reasons = Counter((state.outcome, state.reason) for _, state in failed)
    for (outcome, reason), count in reasons.most_common(5):
        cell_id = next(i for i, s in failed if (s.outcome, s.reason) == (outcome, reason))
        cells = cell_id if count == 1 else f"{count} cells, for example {cell_id}"
        first_line = (reason or "").partition("\n")[0]
        # No wrapping, so that paths and ids can be searched for and copied from a log.
        line = f"  {outcome}: {first_line} ({cells})"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if failed and folder.errors.exists():  # a killed process leaves no traceback
        console.print(f"  tracebacks: {folder.errors}/", highlight=False, soft_wrap=True)
    if missing := n_requested - len(states):
        console.print(
            f"  {plural(missing, 'cell')} without a result. Run the same command again to run them."
        )
    plan = read_plan(folder)
    assignments = {cell: record["assignment"] for cell, record in plan.items()}
    for line in result_lines(folder, assignments, states, chance_accuracies(plan)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 1 if failed or missing else 0


def _value_label(assignment: Mapping[str, Any], name: str) -> str:
    if list(assignment) == [name]:
        value = assignment[name]
        return "null" if value is None else str(value)
    return full_label(dict(assignment))


def show_jobs(console: Console, folder: SweepFolder, submitted: bool = False) -> None:
    """Print the sweep's active Slurm jobs and the commands to wait for them, check or cancel.

    `submitted` is True after a command with `sweep.mode=submit`.
    """
    submissions = open_submissions(folder)
    if not submissions:
        return
    count = sum(len(submission.open_indices()) for submission in submissions)
    ids = ", ".join(submission.job_id() or "(not submitted)" for submission in submissions)
    name = folder.argument
    noun = "job id" if len(submissions) == 1 else "job ids"
    again = "the same command " + ("without sweep.mode=submit" if submitted else "again")
    console.print(
        f"{plural(count, 'job')} active on Slurm ({noun} {ids}). Run {again} to wait, "
        f"`{command_line('status', name)}` to check or `{command_line('cancel', name)}` to cancel.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def confirm_cancel(folder: SweepFolder, console: Console) -> bool:
    """Ask whether to cancel the active Slurm jobs; return False without a terminal or jobs."""
    submissions = open_submissions(folder)
    if not submissions or not sys.stdin.isatty():
        return False
    count = sum(len(submission.open_indices()) for submission in submissions)
    # A second Ctrl-C leaves the jobs running.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        jobs = "it" if count == 1 else "them"
        prompt = f"{plural(count, 'job')} active on Slurm. [L]eave {jobs} running or [c]ancel? "
        return ask(console, prompt).strip().lower().startswith("c")
    except KeyboardInterrupt:
        return False
    finally:
        signal.signal(signal.SIGINT, handler)
