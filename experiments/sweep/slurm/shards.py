"""Packs shared out among the elements of job arrays, by the time they are expected to take."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from experiments.sweep.types import Pack

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
