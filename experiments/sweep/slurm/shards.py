"""Shards: the packs that one task of a job array runs, and the cells that remain of them."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.sweep.store.tables import INTERRUPTED, CellState
from experiments.sweep.types import Pack, PackedCell

Shard = tuple[Pack, ...]


def make_shards(packs: Sequence[Pack], target_seconds: float, workers: int = 1) -> list[Shard]:
    """Distribute packs over jobs that take about `target_seconds` each.

    `packs` are sorted by their seconds, the longest first. `workers` is the number of packs that a
    job runs at once.

    Examples
    --------
    >>> packs = [Pack((), seconds=seconds) for seconds in (50, 40, 30, 20, 10)]
    >>> [[pack.seconds for pack in shard] for shard in make_shards(packs, 80)]
    [[50, 20, 10], [40, 30]]
    """
    if not packs:
        return []
    total = sum(pack.seconds for pack in packs)
    count = min(max(1, round(total / (target_seconds * workers))), len(packs))
    shards: list[list[Pack]] = [[] for _ in range(count)]
    loads = [(0.0, number) for number in range(count)]
    for pack in packs:  # to the shard with the least work so far
        load, number = heapq.heappop(loads)
        shards[number].append(pack)
        heapq.heappush(loads, (load + pack.seconds, number))
    return [tuple(shard) for shard in shards]


def remaining_cells(
    packs: Sequence[Pack], states: Mapping[str, CellState], attempts: int
) -> list[Pack]:
    """Return the cells of a shard that are still to run: without a result, or lost with their job.

    A cell that was lost `attempts` times is not tried again.
    """
    remaining = []
    for pack in packs:
        next_attempts = (
            _next_attempt(cell, states.get(cell.cell_id), attempts) for cell in pack.cells
        )
        if cells := tuple(cell for cell in next_attempts if cell is not None):
            remaining.append(replace(pack, cells=cells))
    return remaining


def _next_attempt(cell: PackedCell, state: CellState | None, attempts: int) -> PackedCell | None:
    """Return the next attempt at a cell; None if there is to be none."""
    if state is None or state.attempt < cell.attempt:
        return cell
    lost = cell.n_lost + state.attempt - cell.attempt + 1
    if state.outcome not in INTERRUPTED or lost >= attempts:
        return None
    return replace(cell, attempt=state.attempt + 1, n_lost=lost)


def isolate(remaining: Sequence[Pack], shard: Sequence[Pack]) -> list[tuple[Pack, ...]]:
    """Split the remaining packs of a shard: each cell that was lost becomes its own shard."""
    lost_before = {cell.cell_id: cell.n_lost for pack in shard for cell in pack.cells}
    isolated, rest = [], []
    for pack in remaining:
        lost = [cell for cell in pack.cells if cell.n_lost > lost_before[cell.cell_id]]
        isolated += [(replace(pack, cells=(cell,)),) for cell in lost]
        if kept := tuple(cell for cell in pack.cells if cell not in lost):
            rest.append(replace(pack, cells=kept))
    return isolated + ([tuple(rest)] if rest else [])
