"""Similar cells one after the other, and stacked into one program, in one one-thread process.

`python -m benchmarks.engines FOLDER REPEATS CELLS...` prints what each took, as JSON.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from analysis.load import load
from benchmarks.measure import python, run
from benchmarks.page import Section
from experiments.config.catalog import config_loader
from experiments.sweep.cli import run_command
from fanin.errors import FaninError

Say = Callable[[str], None]
NETWORKS = {
    "linear": ("model=linear",),
    "mlp": ("model=mlp",),
    "CNN, 4 channels": ("model=two_layer", "model.channels=4"),
    "CNN, 32 channels": ("model=two_layer", "model.channels=32"),
}
LENGTH = ("train.steps=10", "train.batch_size=32")
DATA = ("data=digits", "data.n_test=100", "probe=none")


def engines(quick: bool, folder: Path, say: Say) -> Section:
    """Time stacks of several sizes against the same cells one after the other.

    Parameters
    ----------
    quick
        At most 8 cells, once.
    folder, say
        As in `overhead`.
    """
    counts, repeats = (("2", "8"), 1) if quick else (("2", "8", "16", "32"), 3)
    say(f"engines: {len(NETWORKS)} networks, {', '.join(counts)} cells, {repeats} times")
    found = json.loads(run(python(__name__, str(folder / "engines"), str(repeats), *counts)))
    rows = [
        (
            each["network"],
            str(each["cells"]),
            str(repeats),
            f"{1e3 * each['serial']:.1f}",
            f"{1e3 * each['stacked']:.1f}",
            f"{each['serial'] / each['stacked']:.2f}",
        )
        for each in found
    ]
    return Section(
        title="Engines: serial against stacked, on one thread of a CPU",
        columns=("network", "cells", "n", "serial, ms a cell", "stacked, ms a cell", "ratio"),
        rows=tuple(rows),
        remarks=(
            f"Medians; {' '.join(LENGTH)}, 28x28 digits; the time of a cell is its column "
            "`seconds`: weights, training and evaluation. Above 1, stacking pays.",
        ),
    )


def seconds_a_cell(network: tuple[str, ...], cells: int, engine: str, results: Path) -> float:
    """Run a sweep of cells that differ in their seed; the mean of their `seconds`.

    Raises
    ------
    FaninError
        Some cell failed, or ran under the other engine.
    """
    where = ["runner=inline", "runner.device=cpu", f"sweep.results='{results}'", "sweep.name=s"]
    axes = [f"seed=range({cells})", f"engine={engine}"]
    with redirect_stdout(io.StringIO()) as said:
        loader = config_loader()
        status = run_command(loader, "config", [*DATA, *LENGTH, *network, *axes, *where])
    table = load("s", results).cells if status == 0 else None
    if table is None or len(table) != cells or set(table["engine"]) != {engine}:
        raise FaninError(f"{' '.join(network)} engine={engine}: did not run\n{said.getvalue()}")
    return float(table["seconds"].mean())


def main() -> None:
    """Measure all networks, the two engines taking turns."""
    folder, repeats, counts = Path(sys.argv[1]), int(sys.argv[2]), [int(n) for n in sys.argv[3:]]
    seconds_a_cell(NETWORKS["linear"], 2, "stacked", folder / "warm-up")
    found = []
    for name, words in NETWORKS.items():
        for cells in counts:
            took: dict[str, list[float]] = {"serial": [], "stacked": []}
            for repeat in range(repeats):
                for engine, times in took.items():
                    place = folder / f"{name}-{cells}-{repeat}-{engine}"
                    times.append(seconds_a_cell(words, cells, engine, place))
            medians = {engine: statistics.median(times) for engine, times in took.items()}
            found.append({"network": name, "cells": cells, **medians})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
