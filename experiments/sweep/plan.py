"""What is to be done: the cells of a sweep against what its folder already holds."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.config.build import TARGET
from experiments.sweep.expand import PlannedCell
from experiments.sweep.store.state import DONE, FAILED, CellState

# Cells of a pack differ at most in these, so they share data, network and warmed-up code.
VARIES_IN_PACK = ("init", "scaling", "seed", "seed_weights", "seed_data")


@dataclass(frozen=True)
class Task:
    """A cell to run, and which attempt at it this is."""

    cell_id: str
    attempt: int
    config: dict[str, Any]
    choices: dict[str, str | None]


@dataclass(frozen=True)
class Pack:
    """Cells that run one after the other in one process."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Plan:
    """Cells by state, and the packs that would run now."""

    cells: Sequence[PlannedCell]
    counts: dict[str, int]  # done, missing, failed, interrupted
    packs: tuple[Pack, ...]
    expected_seconds: float | None  # of one worker; None without timings to go by

    @property
    def pending(self) -> int:
        """Cells that would run now."""
        return sum(len(pack.tasks) for pack in self.packs)


def make_plan(
    cells: Sequence[PlannedCell],
    states: Mapping[str, CellState],
    retry: Sequence[str],
    pack_cells: int,
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
    pack_cells
        Most cells in a pack.
    """
    counts: Counter[str] = Counter({"done": 0, "missing": 0, "failed": 0, "interrupted": 0})
    due = []
    for cell in cells:
        state = states.get(cell.id)
        kind = _kind(state)
        counts[kind] += 1
        if kind in ("missing", "interrupted") or (state is not None and state.outcome in retry):
            attempt = 1 if state is None else state.attempt + 1
            due.append(Task(cell.id, attempt, cell.config, cell.choices))
    return Plan(cells, dict(counts), _packs(due, pack_cells), _expected(cells, states, due))


def _kind(state: CellState | None) -> str:
    if state is None:
        return "missing"
    if state.outcome in DONE:
        return "done"
    return "failed" if state.outcome in FAILED else "interrupted"


def _packs(tasks: Sequence[Task], pack_cells: int) -> tuple[Pack, ...]:
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(similar(task.config), []).append(task)
    return tuple(
        Pack(tuple(group[start : start + pack_cells]))
        for group in groups.values()
        for start in range(0, len(group), pack_cells)
    )


def similar(config: Mapping[str, Any]) -> str:
    """What the cells of a pack have in common, the numbers of the optimizer aside.

    Such cells take about as long.
    """
    kept = {key: value for key, value in config.items() if key not in VARIES_IN_PACK}
    return json.dumps(kept | {"optim": config["optim"][TARGET]}, sort_keys=True)


def _expected(
    cells: Sequence[PlannedCell], states: Mapping[str, CellState], due: Sequence[Task]
) -> float | None:
    """Sum over due cells of the median time of finished cells that share their pack's keys."""
    timings: dict[str, list[float]] = {}
    for cell in cells:
        state = states.get(cell.id)
        if state is not None and state.outcome in DONE:
            timings.setdefault(similar(cell.config), []).append(state.seconds)
    total = 0.0
    for task in due:
        known = timings.get(similar(task.config))
        if not known:
            return None
        total += statistics.median(known)
    return total
