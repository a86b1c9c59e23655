"""Plan of a sweep: the cells to run, in packs, longest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.schema import build_cell
from experiments.sweep.cell_times import CellTimes, cell_times
from experiments.sweep.engines import EngineDecisions
from experiments.sweep.store.tables import DONE, FAILED, CellState
from experiments.sweep.types import EngineName, Pack, PackedCell, PlannedCell, group_cells, pack_key
from experiments.training.stack_size import MAX_ON_CPU, stack_size, training_bytes

Groups = Mapping[str, Sequence[PackedCell]]
"""Cells by `pack_key`."""

# Seconds of work in a serial pack: much more than the time to write its tables.
MIN_PACK_SECONDS, MAX_PACK_SECONDS = 1.0, 20.0
MAX_SERIAL_CELLS = 128
PACKS_PER_WORKER = 4  # at least, if there are enough cells, so that workers end at similar times


@dataclass(frozen=True)
class Plan:
    """Cells by state, and the packs to run, longest first.

    Attributes
    ----------
    cells
        All cells of the request.
    counts
        Number of cells by state: done, missing, failed, interrupted, queued (in a Slurm job).
    groups
        Cells to run, by `pack_key`.
    times
        Time of a cell of each group.
    engines
        Engine of each group.
    packs
        Packs to run.
    untried
        Groups of which no cell has ended or is in a Slurm job.
    awaited
        Groups of which no cell has ended, but some are in a Slurm job.
    """

    cells: Sequence[PlannedCell]
    counts: dict[str, int]
    groups: dict[str, list[PackedCell]]
    times: CellTimes
    engines: EngineDecisions
    packs: tuple[Pack, ...]
    untried: tuple[str, ...] = ()
    awaited: tuple[str, ...] = ()

    @property
    def queued(self) -> int:
        """Number of cells that Slurm jobs will run."""
        return self.counts.get("queued", 0)

    @property
    def pending(self) -> int:
        """Number of cells to run."""
        return sum(len(pack.cells) for pack in self.packs)

    @property
    def expected_seconds(self) -> float:
        """Seconds that a single worker would take for all packs."""
        return sum(self.times.seconds[key] * len(group) for key, group in self.groups.items())

    def pilot(self) -> Plan:
        """Return the plan with a pack of one cell for each untried group, and no other packs."""
        packs = [
            Pack((self.groups[key][0],), self.engines.chosen[key], self.times.seconds[key])
            for key in self.untried
        ]
        return replace(self, packs=tuple(sorted(packs, key=lambda pack: -pack.seconds)))


def make_plan(
    cells: Sequence[PlannedCell],
    states: Mapping[str, CellState],
    retry: Sequence[str],
    choose_engines: Callable[[Groups], EngineDecisions],
    limits: PackLimits,
    queued: Collection[str] = (),
    others: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """Plan the cells that are missing, interrupted, or failed with an outcome to retry.

    Parameters
    ----------
    cells
        Cells of the request.
    states
        The latest attempt of every cell in the folder.
    retry
        Outcomes to run again.
    choose_engines
        Function that chooses the engine of each group of similar cells.
    limits
        Limits of a pack.
    queued
        Ids of cells that Slurm jobs will run, or whose results they have yet to store.
    others
        Configs of all cells ever planned in the folder, by cell id. Their times count too.
    """
    counts: Counter[str] = Counter({"done": 0, "missing": 0, "failed": 0, "interrupted": 0})
    pending = []
    for cell in cells:
        state = states.get(cell.id)
        state_name = _state_name(state)
        is_stored = state is not None and state.outcome in DONE and state.stored
        if cell.id in queued and not is_stored:
            counts["queued"] += 1
            continue
        counts[state_name] += 1
        retried = state is not None and state.outcome in retry
        if retried or state_name in ("missing", "interrupted"):
            attempt = 1 if state is None else state.attempt + 1
            pending.append(PackedCell(cell.id, attempt, cell.config, cell.choices))
    groups = group_cells(pending)
    engines = choose_engines(groups)
    history = _group_history(
        {**(others or {}), **{cell.id: cell.config for cell in cells}}, states, queued
    )
    configs = history.configs | {key: group[0].config for key, group in groups.items()}
    plan = Plan(
        cells,
        dict(counts),
        groups,
        cell_times(configs, history.seconds),
        engines,
        (),
        untried=tuple(key for key in groups if key not in history.ended | history.queued),
        awaited=tuple(key for key in groups if key in history.queued - history.ended),
    )
    return with_engines(plan, engines, limits)


def with_engines(plan: Plan, engines: EngineDecisions, limits: PackLimits) -> Plan:
    """Return the plan with its cells packed for these engines."""
    packs = make_packs(
        plan.groups, engines.chosen, plan.times.seconds, stack_bytes_per_cell, limits
    )
    return replace(plan, engines=engines, packs=packs)


def _state_name(state: CellState | None) -> str:
    if state is None:
        return "missing"
    if state.outcome in DONE:
        return "done"
    return "failed" if state.outcome in FAILED else "interrupted"


@dataclass(frozen=True)
class _History:
    """Groups of which cells have ended or are queued, and times and configs of successful cells."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    configs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    queued: set[str] = field(default_factory=set)


def _group_history(
    configs: Mapping[str, Mapping[str, Any]],
    states: Mapping[str, CellState],
    queued: Collection[str],
) -> _History:
    history = _History()
    for cell_id, config in configs.items():
        state = states.get(cell_id)
        if state is None and cell_id not in queued:
            continue
        key = pack_key(config)
        if cell_id in queued:
            history.queued.add(key)
        if state is not None and state.outcome in (*DONE, *FAILED):
            history.ended.add(key)
            # A diverged cell may have stopped early, so its time says nothing about the others.
            if state.outcome == "ok" and state.seconds > 0:
                history.seconds.setdefault(key, []).append(state.seconds)
                history.configs[key] = config
    return history


def stack_bytes_per_cell(cell: PackedCell) -> int:
    """Estimate the memory that training a cell takes in a stack, in bytes."""
    return training_bytes(build_cell(cell.config))


@dataclass(frozen=True)
class PackLimits:
    """Limits of a pack.

    Parameters
    ----------
    workers
        Number of workers that share the packs.
    cells
        Maximum number of cells in a pack. None: chosen by the time that cells take.
    stack_bytes
        Memory that a stack may use. None: no limit.
    stack_cells
        Maximum number of cells in a stack, if `cells` is None.
    """

    workers: int
    cells: int | None = None
    stack_bytes: int | None = None
    stack_cells: int = MAX_ON_CPU


def make_packs(
    groups: Mapping[str, Sequence[PackedCell]],
    engines: Mapping[str, EngineName],
    cell_seconds: Mapping[str, float],
    bytes_per_cell: Callable[[PackedCell], int],
    limits: PackLimits,
) -> tuple[Pack, ...]:
    """Divide groups of similar cells into packs, longest first.

    Parameters
    ----------
    groups
        Cells by `pack_key`.
    engines
        Engine of each group.
    cell_seconds
        Estimated seconds of a cell of each group.
    bytes_per_cell
        Function that estimates the memory of a cell in a stack.
    limits
        Limits of a pack.
    """
    total = sum(cell_seconds[key] * len(cells) for key, cells in groups.items())
    seconds_per_pack = total / (PACKS_PER_WORKER * limits.workers)
    packs: list[Pack] = []
    for key, cells in groups.items():
        if engines[key] == "stacked":
            size = stack_size(len(cells), limits.workers, limits.cells, limits.stack_cells)
            if limits.stack_bytes is not None:
                size = min(size, limits.stack_bytes // bytes_per_cell(cells[0]))
        elif limits.cells is None:
            seconds = min(max(seconds_per_pack, MIN_PACK_SECONDS), MAX_PACK_SECONDS)
            size = min(MAX_SERIAL_CELLS, int(seconds / cell_seconds[key]))
        else:
            size = limits.cells
        size = max(size, 1)
        for start in range(0, len(cells), size):
            part = tuple(cells[start : start + size])
            packs.append(Pack(part, engines[key], cell_seconds[key] * len(part)))
    packs.sort(key=lambda pack: -pack.seconds)  # stable: equal packs keep the order of the grid
    return tuple(packs)
