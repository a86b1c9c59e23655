"""What is still to be done of a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.sweep.store.tables import INTERRUPTED, CellState
from experiments.sweep.types import Pack, PackedCell


def left_of(packs: Sequence[Pack], states: Mapping[str, CellState], attempts: int) -> list[Pack]:
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


def alone(rest: Sequence[Pack], shard: Sequence[Pack]) -> list[tuple[Pack, ...]]:
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
