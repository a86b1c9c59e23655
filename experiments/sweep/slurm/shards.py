"""Shards: the packs that one element of a job array runs, and what is left of them."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.sweep.store.tables import INTERRUPTED, CellState
from experiments.sweep.types import Pack, PackedCell

Shard = tuple[Pack, ...]


def sharded(packs: Sequence[Pack], target_seconds: float, workers: int = 1) -> list[Shard]:
    """Share packs out so that a job of some workers is busy for about as long as is wanted.

    Parameters
    ----------
    packs
        The longest first.
    target_seconds
        How long a job should take.
    workers
        How many packs a job runs at once.

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
    """What is still to be run of a shard: cells that have no result, or lost theirs with a job.

    Parameters
    ----------
    packs
        The shard, as it was handed out.
    states
        The latest attempt of every cell.
    attempts
        How often a cell is begun before it is given up.
    """
    left = []
    for pack in packs:
        found = (_next(task, states.get(task.cell_id), attempts) for task in pack.cells)
        if tasks := tuple(task for task in found if task is not None):
            left.append(replace(pack, cells=tasks))
    return left


def _next(task: PackedCell, state: CellState | None, attempts: int) -> PackedCell | None:
    """The next attempt at a cell; None where there is to be none."""
    if state is None or state.attempt < task.attempt:
        return task
    lost = task.lost + state.attempt - task.attempt + 1
    if state.outcome not in INTERRUPTED or lost >= attempts:
        return None
    return replace(task, attempt=state.attempt + 1, lost=lost)


def isolate(rest: Sequence[Pack], shard: Sequence[Pack]) -> list[tuple[Pack, ...]]:
    """What is left of a shard, in parts: each cell that was lost with its job is one by itself.

    Parameters
    ----------
    rest
        What is left.
    shard
        As it was handed out.
    """
    before = {task.cell_id: task.lost for pack in shard for task in pack.cells}
    parts, others = [], []
    for pack in rest:
        lost = [task for task in pack.cells if task.lost > before[task.cell_id]]
        parts += [(replace(pack, cells=(task,)),) for task in lost]
        if kept := tuple(task for task in pack.cells if task not in lost):
            others.append(replace(pack, cells=kept))
    return parts + ([tuple(others)] if others else [])
