"""Estimate of a sweep's remaining time from the measured time of its cells."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

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
    workers: Sequence[Mapping[str, float]],
    waiting: Sequence[str],
    elapsed: float,
    parallel: int = 1,
) -> float | None:
    """Estimate the time until all cells are finished (seconds); None if nothing is known yet.

    The estimate is the elapsed time, scaled by the ratio of remaining to finished work. Work is
    measured in `cell_seconds`, so the order of long and short cells does not bias the estimate, and
    the overhead of a cell is included. The estimate is at least the time that the worker with the
    most remaining work needs for its running cells, and at least the time of any waiting cell: at
    the end of a sweep, the idle workers cannot help.

    Parameters
    ----------
    cell_seconds, measured
        Result of `estimate_cell_seconds`.
    finished
        Cells that ended in this run of the sweep.
    workers
        Running cells of each worker, with their finished fraction, 0 to 1. The cells of a stack
        are running at once; `cell_seconds` is the share of each in the time of the stack.
    waiting
        Cells that have not started.
    elapsed
        Duration of this run of the sweep so far (seconds).
    parallel
        Minimum number of workers that run at once.
    """
    finished_work = sum(map(cell_seconds, finished))
    running_work = sum(
        cell_seconds(cell) * fraction for cells in workers for cell, fraction in cells.items()
    )
    worker_work = [
        sum(cell_seconds(cell) * (1 - fraction) for cell, fraction in cells.items())
        for cells in workers
    ]
    waiting_work = [cell_seconds(cell) for cell in waiting]
    remaining = sum(waiting_work) + sum(worker_work)
    if remaining <= 0:
        return 0.0
    n_workers = max(len(workers), parallel)
    longest = max(*worker_work, *waiting_work, 0.0)
    if not finished_work and measured:
        return max(remaining / n_workers, longest)
    done = finished_work + running_work
    if done <= 0 or elapsed <= 0:
        return None
    # Measured cell times are seconds of one worker. Others are relative, and the workers have done
    # `done` of them in `elapsed`.
    seconds_per_work = 1.0 if measured else n_workers * elapsed / done
    return max(elapsed * remaining / done, seconds_per_work * longest)
