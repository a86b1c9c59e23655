"""Check of a short sweep in worker processes on the device, from the command to the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from analysis.load import load
from benchmarks.gpu.cases import DEFAULTS
from benchmarks.gpu.check import Check, Comparison, equal, run_check
from benchmarks.measure import python, run
from experiments.training.settings import Train

SEEDS = 3
LAYERS = ("conv1", "fc1")  # of two_layer
STEPS = 8  # a stack replays its CUDA graph from the fifth step on


def sweep_checks(
    device: torch.device, folder: Path, engines: Sequence[str] = ("serial", "stacked")
) -> Iterator[Check]:
    """Check the tables of one sweep per engine."""
    for engine in engines:
        yield run_check(
            *("sweep", f"runner=local device={device.type}", f"engine={engine}"),
            partial(compare_sweep, engine, device, folder),
        )


def compare_sweep(engine: str, device: torch.device, folder: Path) -> Comparison:
    """Run a sweep by its command and compare its tables with the expected values."""
    cells = [word for word in DEFAULTS if not word.startswith(("probe=", "train.steps="))]
    cells += [f"train.steps={STEPS}", "probe.draws=1", "probe.size=8", "probe.images=[]"]
    runner = ["runner=local", f"runner.device={device.type}", "runner.workers=1"]
    settings = [f"sweep.results='{folder}'", f"sweep.name={engine}", f"engine={engine}"]
    run(python("experiments.run", "-m", *cells, *runner, *settings, f"seed=range({SEEDS})"))
    tables = load(engine, folder)
    rows = tables.cells.sort_values("seed")
    losses = tables.curves[tables.curves["metric"] == "train_loss"]
    return Comparison(
        (
            equal("outcomes", rows["outcome"].tolist(), ["ok"] * SEEDS),
            equal("seeds", rows["seed"].tolist(), list(range(SEEDS))),
            equal("engine", set(rows["engine"]), {engine}),
            equal("device", {name.partition(":")[0] for name in rows["device"]}, {device.type}),
            equal("finite losses", bool(rows["test_loss"].notna().all()), True),
            equal("losses", len(losses), SEEDS * STEPS),
            equal("layers", set(tables.layers["layer_name"]) - {""}, set(LAYERS)),
            equal("default dtype", set(rows["train.dtype"]), {Train().dtype}),
        )
    )
