"""Benchmark: the serial and the stacked engine, in a process with one thread.

`python -m benchmarks.engines FOLDER REPEATS CELLS...` prints the times as JSON.
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

Log = Callable[[str], None]
NETWORKS = {
    "linear": ("model=linear",),
    "mlp": ("model=mlp",),
    "CNN, 4 channels": ("model=two_layer", "model.channels=4"),
    "CNN, 32 channels": ("model=two_layer", "model.channels=32"),
}
LENGTH = ("train.steps=10", "train.batch_size=32")
DATA = ("data=digits", "data.n_test=100", "probe=none")


def engines(quick: bool, folder: Path, log: Log) -> Section:
    """Time stacks of several sizes against serial training of the same cells.

    Parameters
    ----------
    quick
        Measure at most 8 cells, once.
    folder, log
        As in `overhead`.
    """
    counts, repeats = (("2", "8"), 1) if quick else (("2", "8", "16", "32"), 3)
    log(f"engines: {len(NETWORKS)} networks, {', '.join(counts)} cells, {repeats} times")
    results = json.loads(run(python(__name__, str(folder / "engines"), str(repeats), *counts)))
    rows = [
        (
            result["network"],
            str(result["cells"]),
            str(repeats),
            f"{1e3 * result['serial']:.1f}",
            f"{1e3 * result['stacked']:.1f}",
            f"{result['serial'] / result['stacked']:.2f}",
        )
        for result in results
    ]
    return Section(
        title="Engines: serial against stacked, on one thread of a CPU",
        columns=("network", "cells", "n", "serial, ms per cell", "stacked, ms per cell", "ratio"),
        rows=tuple(rows),
        remarks=(
            f"Medians; {' '.join(LENGTH)}, 28x28 digits. The time of a cell is the value of "
            "its column `seconds`, which covers draws, training and evaluation. Stacking is faster "
            "if the ratio is above 1.",
        ),
    )


def seconds_per_cell(network: tuple[str, ...], cells: int, engine: str, results: Path) -> float:
    """Run a sweep of cells that differ in their seed; return the mean of their `seconds`.

    Raises
    ------
    FaninError
        A cell failed or was run by the other engine.
    """
    runner = ["runner=inline", "runner.device=cpu", f"sweep.results='{results}'", "sweep.name=s"]
    axes = [f"seed=range({cells})", f"engine={engine}"]
    with redirect_stdout(io.StringIO()) as output:
        loader = config_loader()
        status = run_command(loader, "config", [*DATA, *LENGTH, *network, *axes, *runner])
    table = load("s", results).cells if status == 0 else None
    if table is None or len(table) != cells or set(table["engine"]) != {engine}:
        raise FaninError(f"{' '.join(network)} engine={engine}: failed\n{output.getvalue()}")
    return float(table["seconds"].mean())


def main() -> None:
    """Measure all networks, alternating between the two engines."""
    folder, repeats, counts = Path(sys.argv[1]), int(sys.argv[2]), [int(n) for n in sys.argv[3:]]
    seconds_per_cell(NETWORKS["linear"], 2, "stacked", folder / "warm-up")
    rows = []
    for name, overrides in NETWORKS.items():
        for cells in counts:
            seconds: dict[str, list[float]] = {"serial": [], "stacked": []}
            for repeat in range(repeats):
                for engine, times in seconds.items():
                    results = folder / f"{name}-{cells}-{repeat}-{engine}"
                    times.append(seconds_per_cell(overrides, cells, engine, results))
            medians = {engine: statistics.median(times) for engine, times in seconds.items()}
            rows.append({"network": name, "cells": cells, **medians})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
