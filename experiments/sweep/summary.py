"""What the launcher says: the plan, counts by state, and how it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.sweep.expand import label
from experiments.sweep.plan import Plan
from experiments.sweep.request import Request
from experiments.sweep.store.state import DONE, CellState


def show_plan(console: Console, request: Request, plan: Plan) -> None:
    """Print each axis with its values, counts by state, packs and the expected time."""
    for number, grid in enumerate(request.grids, start=1):
        title = f"{request.name}" + (f", grid {number}" if len(request.grids) > 1 else "")
        table = Table("axis", "values", title=title, title_justify="left")
        for axis in grid.axes:
            table.add_row(axis.name, "\n".join(_short(value, axis.name) for value in axis.values))
        for pattern in grid.exclude:
            table.add_row("without", label(pattern))
        console.print(table)
    show_counts(console, request, plan)
    if plan.packs:
        console.print(f"Would run {plan.pending} cells in {len(plan.packs)} packs; ", end="")
        if plan.expected_seconds is None:
            console.print("no timings of such cells yet to say how long it takes.")
        else:
            console.print(f"about {plan.expected_seconds:.0f} s of one worker's time.")


def show_counts(console: Console, request: Request, plan: Plan) -> None:
    """Print cells by state, in one line."""
    counts = ", ".join(f"{count} {kind}" for kind, count in plan.counts.items())
    console.print(f"{request.name}: {len(plan.cells)} cells: {counts}", highlight=False)
    failed = plan.counts["failed"]
    if failed and not request.settings.retry:
        console.print("  (sweep.retry=[error,oom] runs failed cells again)", markup=False)


def show_end(
    console: Console, request: Request, states: Mapping[str, CellState], asked: int
) -> int:
    """Print how the cells ended and where they are; the exit status."""
    outcomes = Counter(state.outcome for state in states.values())
    counted = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    folder = request.folder
    console.print(f"{request.name}: {counted}; tables in {folder.root}/", highlight=False)
    bad = [(key, state) for key, state in states.items() if state.outcome not in DONE]
    # What went wrong in many cells is said once.
    faults = Counter((state.outcome, state.reason) for _, state in bad)
    for (outcome, reason), count in faults.most_common(5):
        key = next(key for key, s in bad if (s.outcome, s.reason) == (outcome, reason))
        which = key if count == 1 else f"{count} cells, one of them {key}"
        said = (reason or "").partition("\n")[0]
        console.print(f"  {outcome}: {said} ({which})", highlight=False, markup=False)
    if bad:
        console.print(f"  tracebacks: {folder.errors}/", highlight=False)
    if missing := asked - len(states):
        console.print(f"  {missing} cells left no result; the same command runs them again")
    return 1 if bad or missing else 0


def _short(assignment: Mapping[str, Any], name: str) -> str:
    if list(assignment) == [name]:
        return str(assignment[name])
    return label(dict(assignment))
