"""What is to be done: the cells of a sweep against what its folder already holds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from experiments.schema import build_cell
from experiments.sweep.cost import Costs
from experiments.sweep.engines import Engines
from experiments.sweep.expand import PlannedCell
from experiments.sweep.packing import Bounds, packed
from experiments.sweep.store.state import DONE, FAILED, CellState
from experiments.sweep.types import Pack, Task, grouped, similar
from experiments.training.stack_size import training_bytes

Groups = Mapping[str, Sequence[Task]]


@dataclass(frozen=True)
class Plan:
    """Cells by state, and the packs that would run now, the longest first.

    `groups` are the cells that are due, by what they have in common, and `work` the seconds that a
    cell of each takes. `expected_seconds` is one worker's time; None without timings to go by.
    """

    cells: Sequence[PlannedCell]
    counts: dict[str, int]  # done, missing, failed, interrupted; queued: handed out already
    groups: dict[str, list[Task]]
    work: dict[str, float]
    engines: Engines
    packs: tuple[Pack, ...]
    expected_seconds: float | None

    @property
    def queued(self) -> int:
        """Cells that a cluster's jobs have in hand."""
        return self.counts.get("queued", 0)

    @property
    def pending(self) -> int:
        """Cells that would run now."""
        return sum(len(pack.tasks) for pack in self.packs)


def make_plan(
    cells: Sequence[PlannedCell],
    states: Mapping[str, CellState],
    retry: Sequence[str],
    engines_of: Callable[[Groups], Engines],
    bounds: Bounds,
    elsewhere: Collection[str] = (),
) -> Plan:
    """Decide what runs: cells that are missing or were interrupted, and failures if asked for.

    Parameters
    ----------
    cells
        What the sweep asks for.
    states
        The latest attempt of every cell in the folder.
    retry
        Outcomes to run again.
    engines_of
        Chooses the engine of each group of similar cells.
    bounds
        What bounds a pack.
    elsewhere
        Cells that a cluster's jobs have in hand.
    """
    counts: Counter[str] = Counter({"done": 0, "missing": 0, "failed": 0, "interrupted": 0})
    due = []
    for cell in cells:
        state = states.get(cell.id)
        kind = _kind(state)
        if cell.id in elsewhere and kind != "done":
            counts["queued"] += 1
            continue
        counts[kind] += 1
        if kind in ("missing", "interrupted") or (state is not None and state.outcome in retry):
            attempt = 1 if state is None else state.attempt + 1
            due.append(Task(cell.id, attempt, cell.config, cell.choices))
    groups = grouped(due)
    engines = engines_of(groups)
    typical = _typical_seconds(cells, states) if len(due) < len(cells) else {}
    known = typical.keys() >= groups.keys()
    # Either all from timings or none: an estimate is only good beside others.
    costs = Costs()
    work = {
        key: typical[key] if known else costs.seconds(tasks[0].config)
        for key, tasks in groups.items()
    }
    expected = sum(work[key] * len(tasks) for key, tasks in groups.items()) if known else None
    plan = Plan(cells, dict(counts), groups, work, engines, (), expected)
    return with_engines(plan, engines, bounds)


def with_engines(plan: Plan, engines: Engines, bounds: Bounds) -> Plan:
    """The plan with its cells packed for these engines."""
    packs = packed(plan.groups, engines.chosen, plan.work, _lane_bytes, bounds)
    return replace(plan, engines=engines, packs=packs)


def _kind(state: CellState | None) -> str:
    if state is None:
        return "missing"
    if state.outcome in DONE:
        return "done"
    return "failed" if state.outcome in FAILED else "interrupted"


def _typical_seconds(
    cells: Sequence[PlannedCell], states: Mapping[str, CellState]
) -> dict[str, float]:
    """The median time of finished cells that share their pack's keys."""
    timings: dict[str, list[float]] = {}
    for cell in cells:
        state = states.get(cell.id)
        if state is not None and state.outcome in DONE and state.seconds > 0:
            timings.setdefault(similar(cell.config), []).append(state.seconds)
    return {key: statistics.median(seconds) for key, seconds in timings.items()}


def _lane_bytes(task: Task) -> int:
    return training_bytes(build_cell(task.config))
