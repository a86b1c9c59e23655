"""Estimate of the time that is left of a sweep, from what has been measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping

from experiments.sweep.status.snapshot import Result
from experiments.sweep.store.tables import DONE

Weight = Callable[[str], float]


def typical_seconds(results: Mapping[str, Result], kinds: Mapping[str, str]) -> tuple[Weight, bool]:
    """Estimate what a cell takes: the median of its kind, or else of all cells.

    Returns a function from a cell's id to seconds of one worker, and whether anything was measured;
    without that each cell counts 1.
    """
    timings: dict[str, list[float]] = {}
    for cell, result in results.items():
        if result.outcome in DONE and result.seconds >= 0:  # which NaN, of a journal, is not
            timings.setdefault(kinds.get(cell, ""), []).append(result.seconds)
    medians = {kind: statistics.median(seconds) for kind, seconds in timings.items()}
    every = [each for seconds in timings.values() for each in seconds]
    usual = statistics.median(every) if every else 1.0
    return lambda cell: medians.get(kinds.get(cell, ""), usual), bool(every)


def seconds_left(
    weight: Weight,
    measured: bool,
    finished: Iterable[str],
    shares: Mapping[str, float],
    waiting: Iterable[str],
    elapsed: float,
) -> float | None:
    """Estimate the time until all cells are finished (seconds); None: nothing is known yet.

    Cells weigh what they take by `weight`, so neither long cells that come first mislead it, nor
    what else a cell costs beside its own seconds. `weight` and `measured` are those of
    `typical_seconds`; `finished` ended in this run of the sweep, which has taken `elapsed` seconds;
    `shares` are the done shares of cells that run now; `waiting` are still to begin.
    """
    ended = sum(map(weight, finished))
    begun = sum(weight(cell) * share for cell, share in shares.items())
    todo = sum(map(weight, waiting)) + sum(weight(cell) for cell in shares) - begun
    if todo <= 0:
        return 0.0
    if not ended and measured:
        return todo / max(len(shares), 1)
    done = ended + begun
    return elapsed * todo / done if done > 0 and elapsed > 0 else None
