"""Shards: the packs that one element of a job array runs, and what is left of them."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.sweep.store.tables import INTERRUPTED, CellState
from experiments.sweep.types import Pack, PackedCell

Shard = tuple[Pack, ...]


def sharded(packs: Sequence[Pack], target_seconds: float, workers: int = 1) -> list[Shard]:
    """Share packs out, the longest first, so that a job is busy for about `target_seconds`.

    `workers` is how many packs a job runs at once.

    Examples
    --------
    >>> packs = [Pack((), seconds=seconds) for seconds in (50, 40, 30, 20, 10)]
    >>> [[pack.seconds for pack in shard] for shard in sharded(packs, 80)]
    [[50, 20, 10], [40, 30]]
    """
    if not packs:
        return []
    total = sum(pack.seconds for pack in packs)
    count = min(max(1, round(total / (target_seconds * workers))), len(packs))
    shards: list[list[Pack]] = [[] for _ in range(count)]
    loads = [(0.0, number) for number in range(count)]
    for pack in packs:  # each to the one that has least to do
        load, number = heapq.heappop(loads)
        shards[number].append(pack)
        heapq.heappush(loads, (load + pack.seconds, number))
    return [tuple(shard) for shard in shards]


def remaining_cells(
    packs: Sequence[Pack], states: Mapping[str, CellState], attempts: int
) -> list[Pack]:
    """Return what is still to be run of a shard: cells without a result, or lost with their job.

    A cell that was lost `attempts` times is given up.
    """
    left = []
    for pack in packs:
        found = (_next(task, states.get(task.cell_id), attempts) for task in pack.cells)
        if tasks := tuple(task for task in found if task is not None):
            left.append(replace(pack, cells=tasks))
    return left


def _next(task: PackedCell, state: CellState | None, attempts: int) -> PackedCell | None:
    """Return the next attempt at a cell; None where there is to be none."""
    if state is None or state.attempt < task.attempt:
        return task
    lost = task.lost + state.attempt - task.attempt + 1
    if state.outcome not in INTERRUPTED or lost >= attempts:
        return None
    return replace(task, attempt=state.attempt + 1, lost=lost)


def isolate(rest: Sequence[Pack], shard: Sequence[Pack]) -> list[tuple[Pack, ...]]:
    """Split what is left of a shard: each cell that was lost becomes a shard of its own."""
    before = {task.cell_id: task.lost for pack in shard for task in pack.cells}
    parts, others = [], []
    for pack in rest:
        lost = [task for task in pack.cells if task.lost > before[task.cell_id]]
        parts += [(replace(pack, cells=(task,)),) for task in lost]
        if kept := tuple(task for task in pack.cells if task not in lost):
            others.append(replace(pack, cells=kept))
    return parts + ([tuple(others)] if others else [])
