"""Benchmark: the overhead of a cell without training (planning, launching, storing its result)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

from analysis.load import load
from benchmarks.baselines import trivial
from benchmarks.measure import Timing, python, run, timed
from benchmarks.page import Section
from fanin.errors import FaninError

FANIN = "fanin, runner=local"
HYDRA_LAUNCHERS = ("basic", "joblib")  # Hydra's launchers
Log = Callable[[str], None]
Timings = dict[int, Timing]  # by number of cells
Grid = Callable[[int, Path], None]
Count = Callable[[Path], int]


def overhead(quick: bool, folder: Path, log: Log) -> Section:
    """Time grids of trivial cells with fanin and with Hydra's launchers.

    Parameters
    ----------
    quick
        At most 100 cells with Hydra's launchers instead of 1,000, and fewer repeats.
    folder
        Folder for the results.
    log
        Called with a message before each measurement.
    """
    # Repeats by number of cells.
    fanin = {10: 3, 100: 1, 1000: 1, 10_000: 1} if quick else {10: 3, 100: 1, 1000: 3, 10_000: 1}
    hydra = {10: 1, 100: 1} if quick else {10: 3, 100: 1, 1000: 1}
    methods: dict[str, tuple[dict[int, int], Grid, Count]] = {
        FANIN: (fanin, run_fanin, count_fanin)
    }
    for launcher in HYDRA_LAUNCHERS:
        methods[launcher_label(launcher)] = (hydra, partial(run_hydra, launcher), count_hydra)
    timings: dict[str, Timings] = {name: {} for name in methods}
    for name, (repeats, grid, count) in methods.items():
        for cells, n in repeats.items():
            log(f"{cells:,} trivial cells under {name}, {n} times")
            folders = [folder / f"{name}, {cells}, {repeat}" for repeat in range(n)]
            timings[name][cells] = timed(partial(grid, cells), folders)
            for results in folders:  # not timed
                check_complete(count(results), cells, results)
    return Section(
        title="Overhead: cells without training",
        columns=("", "cells", "n", "median s", "ms per cell", "ms per additional cell"),
        rows=tuple(
            _row(name, cells, by_cells) for name, by_cells in timings.items() for cells in by_cells
        ),
        remarks=tuple(_remarks(timings)),
    )


def run_fanin(cells: int, results: Path) -> None:
    """Run a grid with fanin: ten images, a linear network, no steps, no probes."""
    size = ["data.n_train=10", "data.n_test=10", "train.steps=0", "model=linear", "probe=none"]
    runner = ["runner=local", f"sweep.results='{results}'", "sweep.name=trivial"]
    run(python("experiments.run", "-m", *size, *runner, f"seed=range({cells})"))


def run_hydra(launcher: str, cells: int, results: Path) -> None:
    """Run a grid of `benchmarks.baselines.trivial` with one of Hydra's launchers."""
    overrides = [f"hydra/launcher={launcher}", f"hydra.sweep.dir='{results}'"]
    overrides += ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    run(python(trivial.__name__, "-m", *overrides, f"seed=range({cells})"))


def count_fanin(results: Path) -> int:
    """Return the number of cells with outcome `ok`."""
    cells = load("trivial", results).cells
    return int((cells["outcome"] == "ok").sum())


def count_hydra(results: Path) -> int:
    """Return the number of job folders."""
    return len(list(results.glob("*/.hydra/config.yaml")))


def launcher_label(launcher: str) -> str:
    """Return a launcher's name in the tables."""
    return f"hydra -m, {launcher}"


def check_complete(count: int, cells: int, results: Path) -> None:
    """Raise FaninError if a grid has not run all of its cells."""
    if count != cells:
        raise FaninError(f"{results}: {count} cells instead of {cells}; can't compare times")


def _row(name: str, cells: int, timings: Timings) -> tuple[str, ...]:
    timing = timings[cells]
    slope = f"{1e3 * _slope(timings):.2f}" if cells == max(timings) else ""
    mean = f"{1e3 * timing.median / cells:.2f}"
    return name, f"{cells:,}", str(timing.n), f"{timing.median:.2f}", mean, slope


def _slope(timings: Timings) -> float:
    """Return the seconds per additional cell, from the two largest grids."""
    smaller, larger = list(pairwise(sorted(timings)))[-1]
    return (timings[larger].median - timings[smaller].median) / (larger - smaller)


def _remarks(timings: dict[str, Timings]) -> list[str]:
    fanin = timings[FANIN]
    remarks = []
    for launcher in HYDRA_LAUNCHERS:
        hydra = timings[launcher_label(launcher)]
        common, largest = max(hydra), max(fanin)
        ratio = hydra[common].median / fanin[common].median
        mean_ratio = (hydra[common].median / common) / (fanin[largest].median / largest)
        resolved = _slope(fanin) > 0  # noise on a busy machine may exceed the time per cell
        slope = f"{_slope(hydra) / _slope(fanin):.0f}" if resolved else "an unresolved number of"
        remarks.append(
            f"Hydra's {launcher} launcher takes {slope} times as long as fanin per additional "
            f"cell. Start-up included, it takes {ratio:.1f} times as long for the same {common:,} "
            f"cells. Per cell, Hydra with {common:,} cells takes {mean_ratio:.0f} times as long as "
            f"fanin with {largest:,}."
        )
    return remarks
