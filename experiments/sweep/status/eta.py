"""Estimate of a sweep's remaining time from the measured time of its cells."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping

from experiments.sweep.status.snapshot import Result
from experiments.sweep.store.tables import DONE

CellSeconds = Callable[[str], float]
"""Function from a cell id to the seconds that one worker is expected to need for the cell."""


def estimate_cell_seconds(
    results: Mapping[str, Result], kinds: Mapping[str, str], planned: Mapping[str, float]
) -> tuple[CellSeconds, bool]:
    """Estimate the time of a cell from the times of finished cells.

    The estimate is the median over the finished cells of the same kind. If there are none, it is
    the time that was planned for the kind, times the median ratio of measured and planned times;
    without a planned time, it is the median over all finished cells, or 1 s.

    Parameters
    ----------
    results
        Results of finished cells, by cell id.
    kinds
        Kind (pack key) by cell id.
    planned
        Seconds of a cell that were estimated when the sweep was planned, by kind.

    Returns
    -------
    CellSeconds, bool
        The estimate as a function of the cell id, and True if any cell was measured.
    """
    timings: dict[str, list[float]] = {}
    for cell_id, result in results.items():
        if result.outcome in DONE and result.seconds >= 0:  # False if it is NaN (in a journal)
            timings.setdefault(kinds.get(cell_id, ""), []).append(result.seconds)
    medians = {kind: statistics.median(seconds) for kind, seconds in timings.items()}
    all_seconds = [value for seconds in timings.values() for value in seconds]
    default = statistics.median(all_seconds) if all_seconds else 1.0
    ratios = [medians[kind] / planned[kind] for kind in medians if planned.get(kind)]
    scale = statistics.median(ratios) if ratios else 1.0
    estimates = {kind: scale * seconds for kind, seconds in planned.items()} | medians
    return lambda cell_id: estimates.get(kinds.get(cell_id, ""), default), bool(all_seconds)


def estimate_seconds_left(
    cell_seconds: CellSeconds,
    measured: bool,
    finished: Iterable[str],
    progress: Mapping[str, float],
    waiting: Iterable[str],
    elapsed: float,
    parallel: int = 1,
) -> float | None:
    """Estimate the time until all cells are finished (seconds); None if nothing is known yet.

    The estimate is the elapsed time, scaled by the ratio of remaining to finished work. Work is
    measured in `cell_seconds`, so the order of long and short cells does not bias the estimate, and
    the overhead of a cell is included.

    Parameters
    ----------
    cell_seconds, measured
        Result of `estimate_cell_seconds`.
    finished
        Cells that ended in this run of the sweep.
    progress
        Finished fraction of each running cell, 0 to 1.
    waiting
        Cells that have not started.
    elapsed
        Duration of this run of the sweep so far (seconds).
    parallel
        Minimum number of cells that run at once.
    """
    finished_work = sum(map(cell_seconds, finished))
    running_work = sum(cell_seconds(cell) * fraction for cell, fraction in progress.items())
    total_running = sum(cell_seconds(cell) for cell in progress)
    remaining = sum(map(cell_seconds, waiting)) + total_running - running_work
    if remaining <= 0:
        return 0.0
    if not finished_work and measured:
        return remaining / max(len(progress), parallel)
    done = finished_work + running_work
    return elapsed * remaining / done if done > 0 and elapsed > 0 else None
