"""From cells that are due to packs: large enough to share, small enough to lose little."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from experiments.sweep.types import Engine, Pack, Task

LEAST_SECONDS, MOST_SECONDS = 1.0, 20.0  # of work in a serial pack: its tables are little beside
MOST_SERIAL = 128  # cells
MOST_STACKED = 64  # cells
SHARES = 4  # packs a worker gets at least, where there are cells enough: so all end together


@dataclass(frozen=True)
class Bounds:
    """What bounds a pack, beside the work in it.

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


def packed(
    groups: Mapping[str, Sequence[Task]],
    engines: Mapping[str, Engine],
    work: Mapping[str, float],
    lane_bytes: Callable[[Task], int],
    bounds: Bounds,
) -> tuple[Pack, ...]:
    """Divide groups of similar tasks into packs, the longest first.

    Parameters
    ----------
    groups
        Tasks by what they have in common (`grouped`).
    engines
        How each group runs.
    work
        About how many seconds a task of each group takes.
    lane_bytes
        About how much memory a task takes in a stack.
    bounds
        What bounds a pack.
    """
    total = sum(work[key] * len(tasks) for key, tasks in groups.items())
    share = total / (SHARES * bounds.workers)
    found: list[Pack] = []
    for key, tasks in groups.items():
        most = bounds.cells or MOST_SERIAL
        if engines[key] == "stacked":
            fit = MOST_STACKED
            if bounds.stack_bytes is not None:
                fit = bounds.stack_bytes // lane_bytes(tasks[0])
            even = max(-(-len(tasks) // bounds.workers), 2)  # a stack for each worker
            size = min(bounds.cells or MOST_STACKED, fit, even)
        elif bounds.cells is None:
            size = min(most, int(min(max(share, LEAST_SECONDS), MOST_SECONDS) / work[key]))
        else:
            size = most
        size = max(size, 1)
        for start in range(0, len(tasks), size):
            part = tuple(tasks[start : start + size])
            found.append(Pack(part, engines[key], work[key] * len(part)))
    found.sort(key=lambda pack: -pack.seconds)  # stable: as asked, where they are alike
    return tuple(found)
