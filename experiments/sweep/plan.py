"""Plan of a sweep: the cells to run, in packs, the longest first."""

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

MIN_PACK_SECONDS, MAX_PACK_SECONDS = (
    1.0,
    20.0,
)  # of work in a serial pack: its tables are little beside
MAX_SERIAL_CELLS = 128  # cells
MAX_STACKED_CELLS = 64  # cells
SHARES = 4  # packs a worker gets at least, where there are cells enough: so all end together

PASSES_PER_STEP = 3  # a training step against a forward pass, as is usual to count
FLOPS_PER_SECOND = (
    5e9  # a second, of one CPU core on small networks; only how cells compare matters
)
IMAGES = 2  # that are passed through a network: batch normalization refuses one
MIN_CELL_SECONDS = 2e-3  # seconds that a cell takes which computes nothing


@dataclass(frozen=True)
class Plan:
    """Cells by state, and the packs that would run now, the longest first.

    `groups` are the cells that are due, by what they have in common, and `work` the seconds that a
    cell of each takes. `expected_seconds` is one worker's time; None without timings to go by.
    """

    cells: Sequence[PlannedCell]
    counts: dict[str, int]  # done, missing, failed, interrupted; queued: handed out already
    groups: dict[str, list[PackedCell]]
    work: dict[str, float]
    engines: EngineDecisions
    packs: tuple[Pack, ...]
    expected_seconds: float | None

    @property
    def queued(self) -> int:
        """Cells that a cluster's jobs have in hand."""
        return self.counts.get("queued", 0)

    @property
    def pending(self) -> int:
        """Cells that would run now."""
        return sum(len(pack.cells) for pack in self.packs)


def make_plan(
    cells: Sequence[PlannedCell],
    states: Mapping[str, CellState],
    retry: Sequence[str],
    choose_engines: Callable[[Groups], EngineDecisions],
    bounds: PackLimits,
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
    choose_engines
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
            due.append(PackedCell(cell.id, attempt, cell.config, cell.choices))
    groups = group_cells(due)
    engines = choose_engines(groups)
    typical = _typical_seconds(cells, states) if len(due) < len(cells) else {}
    known = typical.keys() >= groups.keys()
    # Either all from timings or none: an estimate is only good beside others.
    costs = CostEstimator()
    work = {
        key: typical[key] if known else costs.seconds(tasks[0].config)
        for key, tasks in groups.items()
    }
    expected = sum(work[key] * len(tasks) for key, tasks in groups.items()) if known else None
    plan = Plan(cells, dict(counts), groups, work, engines, (), expected)
    return with_engines(plan, engines, bounds)


def with_engines(plan: Plan, engines: EngineDecisions, bounds: PackLimits) -> Plan:
    """Return the plan with its cells make_packs for these engines."""
    packs = make_packs(plan.groups, engines.chosen, plan.work, stack_bytes_per_cell, bounds)
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
    """Return the median time of finished cells, by pack key."""
    timings: dict[str, list[float]] = {}
    for cell in cells:
        state = states.get(cell.id)
        if state is not None and state.outcome in DONE and state.seconds > 0:
            timings.setdefault(pack_key(cell.config), []).append(state.seconds)
    return {key: statistics.median(seconds) for key, seconds in timings.items()}


def stack_bytes_per_cell(task: PackedCell) -> int:
    return training_bytes(build_cell(task.config))


@dataclass(frozen=True)
class PackLimits:
    """PackLimits of a pack's size, beside the work in it.

    Parameters
    ----------
    workers
        How many share the packs.
    cells
        Most cells in a pack; None: by the work in them.
    stack_bytes
        Memory that a stack may take; None: whatever it needs.
    """

    workers: int
    cells: int | None = None
    stack_bytes: int | None = None


def make_packs(
    groups: Mapping[str, Sequence[PackedCell]],
    engines: Mapping[str, EngineName],
    work: Mapping[str, float],
    stack_bytes_per_cell: Callable[[PackedCell], int],
    bounds: PackLimits,
) -> tuple[Pack, ...]:
    """Divide groups of similar tasks into packs, the longest first.

    Parameters
    ----------
    groups
        Tasks by what they have in common (`group_cells`).
    engines
        How each group runs.
    work
        About how many seconds a task of each group takes.
    stack_bytes_per_cell
        About how much memory a task takes in a stack.
    bounds
        What bounds a pack.
    """
    total = sum(work[key] * len(tasks) for key, tasks in groups.items())
    share = total / (SHARES * bounds.workers)
    found: list[Pack] = []
    for key, tasks in groups.items():
        most = bounds.cells or MAX_SERIAL_CELLS
        if engines[key] == "stacked":
            fit = MAX_STACKED_CELLS
            if bounds.stack_bytes is not None:
                fit = bounds.stack_bytes // stack_bytes_per_cell(tasks[0])
            even = max(-(-len(tasks) // bounds.workers), 2)  # a stack for each worker
            size = min(bounds.cells or MAX_STACKED_CELLS, fit, even)
        elif bounds.cells is None:
            size = min(most, int(min(max(share, MIN_PACK_SECONDS), MAX_PACK_SECONDS) / work[key]))
        else:
            size = most
        size = max(size, 1)
        for start in range(0, len(tasks), size):
            part = tuple(tasks[start : start + size])
            found.append(Pack(part, engines[key], work[key] * len(part)))
    found.sort(key=lambda pack: -pack.seconds)  # stable: as asked, where they are alike
    return tuple(found)


class CostEstimator:
    """Estimates seconds of cells, each network counted once."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def seconds(self, config: Mapping[str, Any]) -> float:
        """Return the estimate for a coerced config."""
        key = json.dumps([config[group] for group in SHAPE_GROUPS], sort_keys=True)
        if key not in self._known:
            self._known[key] = estimate_seconds(build_cell(config))
        return self._known[key]


def estimate_seconds(cell: Cell) -> float:
    """Count the multiplications and additions of a cell's forward and backward passes."""
    n_train = cell.data.n_train or cell.data.source.train_size
    n_test = cell.data.n_test or cell.data.source.test_size
    steps, size = cell.train.total_steps(n_train), cell.train.batch_of(n_train)
    tested = 1 + (steps // cell.train.evaluate_every if cell.train.evaluate_every else 0)
    probed = cell.probe.size * (cell.probe.draws + len(cell.probe.steps))
    images = PASSES_PER_STEP * (steps * size + probed) + (n_test * tested if steps else 0)
    return MIN_CELL_SECONDS + images * _forward_flops(cell) / FLOPS_PER_SECOND


def _forward_flops(cell: Cell) -> float:
    """Count two for each weight that a unit at a position reads (convolutions, products)."""
    flops = 0.0

    def count(_name: str, module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal flops
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1:
            flops += 2 * output.numel() * weight[0].numel() / IMAGES

    # On real, if few, images: torch's `meta` device, which computes nothing, loads its compiler
    # first, and takes longer than all of planning.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = cell.network().eval()
        with forward_hooks(dict(network.named_modules()), count):
            network(torch.zeros(IMAGES, *cell.data.shape))
    return flops
