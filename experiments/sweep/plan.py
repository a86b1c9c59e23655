"""Plan of a sweep: the cells to run, in packs, longest first."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from experiments.config.groups import SHAPE_GROUPS
from experiments.schema import Cell, build_cell
from experiments.sweep.engines import EngineDecisions
from experiments.sweep.store.tables import DONE, FAILED, CellState
from experiments.sweep.types import EngineName, Pack, PackedCell, PlannedCell, group_cells, pack_key
from experiments.training.stack_size import training_bytes
from fanin.probes.trace import forward_hooks

Groups = Mapping[str, Sequence[PackedCell]]
"""Cells by `pack_key`."""

# Seconds of work in a serial pack: much more than the time to write its tables.
MIN_PACK_SECONDS, MAX_PACK_SECONDS = 1.0, 20.0
MAX_SERIAL_CELLS = 128
MAX_STACKED_CELLS = 64
PACKS_PER_WORKER = 4  # at least, if there are enough cells, so that workers end at similar times

PASSES_PER_STEP = 3  # cost of a training step in forward passes, by convention
FLOPS_PER_SECOND = 5e9  # of one CPU core on small networks; only ratios of cell times matter
DUMMY_IMAGES = 2  # batch normalization needs at least two
MIN_CELL_SECONDS = 2e-3  # time of a cell that computes nothing


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
    cell_seconds
        Estimated seconds of a cell, by `pack_key`.
    engines
        Engine of each group.
    packs
        Packs to run.
    expected_seconds
        Seconds that a single worker would take for all packs. None if no similar cells have run.
    """

    cells: Sequence[PlannedCell]
    counts: dict[str, int]
    groups: dict[str, list[PackedCell]]
    cell_seconds: dict[str, float]
    engines: EngineDecisions
    packs: tuple[Pack, ...]
    expected_seconds: float | None

    @property
    def queued(self) -> int:
        """Number of cells that Slurm jobs will run."""
        return self.counts.get("queued", 0)

    @property
    def pending(self) -> int:
        """Number of cells to run."""
        return sum(len(pack.cells) for pack in self.packs)


def make_plan(
    cells: Sequence[PlannedCell],
    states: Mapping[str, CellState],
    retry: Sequence[str],
    choose_engines: Callable[[Groups], EngineDecisions],
    limits: PackLimits,
    queued: Collection[str] = (),
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
        Ids of cells that Slurm jobs will run.
    """
    counts: Counter[str] = Counter({"done": 0, "missing": 0, "failed": 0, "interrupted": 0})
    pending = []
    for cell in cells:
        state = states.get(cell.id)
        state_name = _state_name(state)
        if cell.id in queued and state_name != "done":
            counts["queued"] += 1
            continue
        counts[state_name] += 1
        retried = state is not None and state.outcome in retry
        if retried or state_name in ("missing", "interrupted"):
            attempt = 1 if state is None else state.attempt + 1
            pending.append(PackedCell(cell.id, attempt, cell.config, cell.choices))
    groups = group_cells(pending)
    engines = choose_engines(groups)
    measured = _median_seconds(cells, states) if len(pending) < len(cells) else {}
    all_measured = measured.keys() >= groups.keys()
    # Use measured times for all groups or for none, because estimates are comparable only with
    # each other.
    estimator = CostEstimator()
    cell_seconds = {
        key: measured[key] if all_measured else estimator.seconds(group[0].config)
        for key, group in groups.items()
    }
    total = sum(cell_seconds[key] * len(group) for key, group in groups.items())
    expected = total if all_measured else None
    plan = Plan(cells, dict(counts), groups, cell_seconds, engines, (), expected)
    return with_engines(plan, engines, limits)


def with_engines(plan: Plan, engines: EngineDecisions, limits: PackLimits) -> Plan:
    """Return the plan with its cells packed for these engines."""
    packs = make_packs(plan.groups, engines.chosen, plan.cell_seconds, stack_bytes_per_cell, limits)
    return replace(plan, engines=engines, packs=packs)


def _state_name(state: CellState | None) -> str:
    if state is None:
        return "missing"
    if state.outcome in DONE:
        return "done"
    return "failed" if state.outcome in FAILED else "interrupted"


def _median_seconds(
    cells: Sequence[PlannedCell], states: Mapping[str, CellState]
) -> dict[str, float]:
    """Return the median time of finished cells, by `pack_key`."""
    seconds: dict[str, list[float]] = {}
    for cell in cells:
        state = states.get(cell.id)
        if state is not None and state.outcome in DONE and state.seconds > 0:
            seconds.setdefault(pack_key(cell.config), []).append(state.seconds)
    return {key: statistics.median(values) for key, values in seconds.items()}


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
    """

    workers: int
    cells: int | None = None
    stack_bytes: int | None = None


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
            fit = MAX_STACKED_CELLS
            if limits.stack_bytes is not None:
                fit = limits.stack_bytes // bytes_per_cell(cells[0])
            per_worker = max(-(-len(cells) // limits.workers), 2)  # a stack for each worker
            size = min(limits.cells or MAX_STACKED_CELLS, fit, per_worker)
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


class CostEstimator:
    """Estimator of the seconds that cells take. It counts each network once."""

    def __init__(self) -> None:
        self._cached: dict[str, float] = {}

    def seconds(self, config: Mapping[str, Any]) -> float:
        """Return the estimate for a coerced config."""
        key = json.dumps([config[group] for group in SHAPE_GROUPS], sort_keys=True)
        if key not in self._cached:
            self._cached[key] = estimate_seconds(build_cell(config))
        return self._cached[key]


def estimate_seconds(cell: Cell) -> float:
    """Estimate a cell's seconds from the operations of its forward and backward passes."""
    n_train = cell.data.n_train or cell.data.source.train_size
    n_test = cell.data.n_test or cell.data.source.test_size
    steps, size = cell.train.total_steps(n_train), cell.train.batch_of(n_train)
    n_evaluations = 1 + (steps // cell.train.evaluate_every if cell.train.evaluate_every else 0)
    n_probed = cell.probe.size * (cell.probe.draws + len(cell.probe.steps))
    images = PASSES_PER_STEP * (steps * size + n_probed) + (n_test * n_evaluations if steps else 0)
    return MIN_CELL_SECONDS + images * _forward_flops(cell) / FLOPS_PER_SECOND


def _forward_flops(cell: Cell) -> float:
    """Count two operations for each weight that a unit reads at a position."""
    flops = 0.0

    def count(_name: str, module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal flops
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1:
            flops += 2 * output.numel() * weight[0].numel() / DUMMY_IMAGES

    # Run real tensors: torch's `meta` device imports the compiler, which takes longer than all of
    # planning.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = cell.network().eval()
        with forward_hooks(dict(network.named_modules()), count):
            network(torch.zeros(DUMMY_IMAGES, *cell.data.shape))
    return flops
