"""Cost of a cell that does nothing: planning, launching, keeping its result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

from analysis.load import load
from benchmarks.measure import Timing, python, run, timed
from benchmarks.page import Section
from benchmarks.rivals import trivial
from fanin.errors import FaninError

OURS = "fanin, runner=local"
RIVALS = ("basic", "joblib")  # Hydra's launchers
Say = Callable[[str], None]
Timings = dict[int, Timing]  # by number of cells
Grid = Callable[[int, Path], None]
Count = Callable[[Path], int]


def overhead(quick: bool, folder: Path, say: Say) -> Section:
    """Time grids of trivial cells, ours and theirs.

    Parameters
    ----------
    quick
        At most 100 cells of theirs, instead of 1,000, and fewer repeats.
    folder
        Where results go.
    say
        Told what is about to be measured.
    """
    # Repeats by number of cells.
    ours = {10: 3, 100: 1, 1000: 1, 10_000: 1} if quick else {10: 3, 100: 1, 1000: 3, 10_000: 1}
    theirs = {10: 1, 100: 1} if quick else {10: 3, 100: 1, 1000: 1}
    plans: dict[str, tuple[dict[int, int], Grid, Count]] = {OURS: (ours, run_ours, count_ours)}
    plans |= {name_of(by): (theirs, partial(run_theirs, by), count_theirs) for by in RIVALS}
    found: dict[str, Timings] = {name: {} for name in plans}
    for name, (repeats, grid, count) in plans.items():
        for cells, n in repeats.items():
            say(f"{cells:,} trivial cells under {name}, {n} times")
            places = [folder / f"{name}, {cells}, {repeat}" for repeat in range(n)]
            found[name][cells] = timed(partial(grid, cells), places)
            for place in places:  # not timed
                check_complete(count(place), cells, place)
    return Section(
        title="Overhead: cells that do nothing",
        columns=("", "cells", "n", "median s", "ms a cell", "ms for one more cell"),
        rows=tuple(_row(name, cells, of) for name, of in found.items() for cells in of),
        remarks=tuple(_remarks(found)),
    )


def run_ours(cells: int, results: Path) -> None:
    """A grid of ours, through the store: ten images, a linear network, no step, no probe."""
    size = ["data.n_train=10", "data.n_test=10", "train.steps=0", "model=linear", "probe=none"]
    where = ["runner=local", f"sweep.results='{results}'", "sweep.name=trivial"]
    run(python("experiments.run", "-m", *size, *where, f"seed=range({cells})"))


def run_theirs(launcher: str, cells: int, results: Path) -> None:
    """A grid of `benchmarks.rivals.trivial` under one of Hydra's launchers."""
    by = [f"hydra/launcher={launcher}", f"hydra.sweep.dir='{results}'"]
    by += ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    run(python(trivial.__name__, "-m", *by, f"seed=range({cells})"))


def count_ours(results: Path) -> int:
    """Cells in our table that ended well."""
    cells = load("trivial", results).cells
    return int((cells["outcome"] == "ok").sum())


def count_theirs(results: Path) -> int:
    """Jobs that left their folder."""
    return len(list(results.glob("*/.hydra/config.yaml")))


def name_of(launcher: str) -> str:
    """A launcher as the tables call it."""
    return f"hydra -m, {launcher}"


def check_complete(found: int, cells: int, where: Path) -> None:
    """See that a grid left all of its cells.

    Raises
    ------
    FaninError
        It did not.
    """
    if found != cells:
        raise FaninError(f"{where}: {found} cells instead of {cells}; there is nothing to compare")


def _row(name: str, cells: int, of: Timings) -> tuple[str, ...]:
    timing = of[cells]
    more = f"{1e3 * _slope(of):.2f}" if cells == max(of) else ""
    each = f"{1e3 * timing.median / cells:.2f}"
    return name, f"{cells:,}", str(timing.n), f"{timing.median:.2f}", each, more


def _slope(of: Timings) -> float:
    """Seconds for one more cell, between the two largest grids: start-up cancels out."""
    smaller, larger = list(pairwise(sorted(of)))[-1]
    return (of[larger].median - of[smaller].median) / (larger - smaller)


def _remarks(found: dict[str, Timings]) -> list[str]:
    ours = found[OURS]
    remarks = []
    for launcher in RIVALS:
        theirs = found[name_of(launcher)]
        shared, most = max(theirs), max(ours)
        same = theirs[shared].median / ours[shared].median
        whole = (theirs[shared].median / shared) / (ours[most].median / most)
        resolved = _slope(ours) > 0  # a busy machine's noise can hide what a cell of ours costs
        more = f"{_slope(theirs) / _slope(ours):.0f} times" if resolved else "more than we can tell"
        remarks.append(
            f"Hydra's {launcher} launcher against fanin: {more} for one more cell; {same:.1f} "
            f"times, start-up included, for the same {shared:,} cells; {whole:.0f} times a cell, "
            "start-up included, at the largest grid of each."
        )
    return remarks
