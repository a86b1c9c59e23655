"""Operations of a sweep, timed: start-up, launch, planning, store, load, and commands on it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from analysis.load import load
from benchmarks.baselines import trivial
from benchmarks.large_sweep import fill, fill_layers, planned
from benchmarks.measure import ROOT, environment, python, timed
from benchmarks.memory import peak_memory
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError

SWEEP = "large"  # name of the stored sweep
POLL = 0.01  # seconds between two looks for the first cell


def time_to_first_cell(results: Path) -> tuple[float, float]:
    """Run a sweep of one cell; return the seconds until its journal exists, and until the end."""
    started, first = time.perf_counter(), None
    with (results.parent / f"{results.name}.log").open("w") as log:
        process = subprocess.Popen(
            _sweep(1, results), cwd=ROOT, env=environment(), stdout=log, stderr=log
        )
        try:
            while process.poll() is None:
                if first is None and _has_journal(results):
                    first = time.perf_counter() - started
                time.sleep(POLL)
        finally:
            process.terminate()  # no effect if it has ended
    total = time.perf_counter() - started
    check_complete(_count(results), 1, results)
    return (total if first is None else first), total


def _has_journal(results: Path) -> bool:
    # os.walk ignores folders that disappear meanwhile.
    return any(name.endswith(".journal") for _, _, names in os.walk(results) for name in names)


def launch(cells: int, folder: Path) -> float:
    """Run a sweep of cells that do not train; return the seconds of the command."""
    results = folder / f"launch {cells} {time.time_ns()}"
    seconds = timed(_sweep(cells, results))
    check_complete(_count(results), cells, results)
    return seconds


def hydra(launcher: str, cells: int, folder: Path) -> float:
    """Run as many jobs of a script that does nothing; return the seconds of the command."""
    results = folder / f"hydra {launcher} {cells} {time.time_ns()}"
    overrides = [f"hydra/launcher={launcher}", f"hydra.sweep.dir='{results}'"]
    overrides += ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    seconds = timed(python(trivial.__name__, "-m", *overrides, f"seed=range({cells})"))
    check_complete(len(list(results.glob("*/.hydra/config.yaml"))), cells, results)
    return seconds


def plan_and_store(cells: int, results: Path, layers: bool) -> tuple[dict[str, float], float]:
    """Plan a grid and store random results; return the seconds, and the peak memory of planning."""
    started = time.perf_counter()
    plan = planned(cells)
    seconds = {"planning": time.perf_counter() - started}
    memory = peak_memory()
    if len({cell.id for cell in plan}) != cells:
        raise FaninError(f"planned {len(plan)} cells instead of {cells}")
    write = fill_layers if layers else fill
    seconds["store"] = write(SweepFolder(results / SWEEP), plan)
    return seconds, memory


def load_seconds(results: Path) -> tuple[float, float, int, int]:
    """Load the sweep; return the seconds, peak memory, and rows of `cells` and `layers`."""
    started = time.perf_counter()
    tables = load(SWEEP, results)
    seconds = time.perf_counter() - started
    return seconds, peak_memory(), len(tables.cells), len(tables.layers)


def command(name: str, results: Path) -> float:
    """Run a command of fanin on the stored sweep; return its seconds."""
    return timed(python("fanin", name, SWEEP, f"--results={results}"))


def _sweep(cells: int, results: Path) -> list[str]:
    size = ["data.n_train=10", "data.n_test=10", "train.steps=0", "model=linear", "probe=none"]
    runner = ["runner=local", f"sweep.results='{results}'", f"sweep.name={SWEEP}"]
    return python("fanin", "run", "-m", *size, *runner, f"seed=range({cells})")


def _count(results: Path) -> int:
    return int((load(SWEEP, results).cells["outcome"] == "ok").sum())


def check_complete(count: int, cells: int, results: Path) -> None:
    """Raise FaninError if a sweep is incomplete."""
    if count != cells:
        raise FaninError(f"{results}: {count} cells instead of {cells}; can't compare times")
