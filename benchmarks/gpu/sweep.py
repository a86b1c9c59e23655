"""A short sweep in worker processes on the device, from the command to the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from analysis.load import load
from benchmarks.gpu.cases import DEFAULTS
from benchmarks.gpu.check import Check, Comparison, run_check, same
from benchmarks.measure import python, run
from experiments.training.settings import Train

SEEDS = 3
LAYERS = ("conv1", "fc1")  # of two_layer
STEPS = 4


def sweep_checks(
    device: torch.device, folder: Path, engines: Sequence[str] = ("serial", "stacked")
) -> Iterator[Check]:
    """Check that a sweep's cells end in the tables, one sweep for each engine."""
    for engine in engines:
        yield run_check(
            *("sweep", f"runner=local device={device.type}", f"engine={engine}"),
            partial(compare_sweep, engine, device, folder),
        )


def compare_sweep(engine: str, device: torch.device, folder: Path) -> Comparison:
    """Run a sweep with the command that users type, and compare its tables with what must be."""
    cells = [word for word in DEFAULTS if not word.startswith(("probe=", "train.steps="))]
    cells += [f"train.steps={STEPS}", "probe.draws=1", "probe.size=8", "probe.images=[]"]
    where = ["runner=local", f"runner.device={device.type}", "runner.workers=1"]
    named = [f"sweep.results='{folder}'", f"sweep.name={engine}", f"engine={engine}"]
    run(python("experiments.run", "-m", *cells, *where, *named, f"seed=range({SEEDS})"))
    tables = load(engine, folder)
    found = tables.cells.sort_values("seed")
    losses = tables.curves[tables.curves["metric"] == "train_loss"]
    return Comparison(
        (
            same("outcomes", found["outcome"].tolist(), ["ok"] * SEEDS),
            same("seeds", found["seed"].tolist(), list(range(SEEDS))),
            same("engine", set(found["engine"]), {engine}),
            same("device", {name.partition(":")[0] for name in found["device"]}, {device.type}),
            same("finite losses", bool(found["test_loss"].notna().all()), True),
            same("losses", len(losses), SEEDS * STEPS),
            same("layers", set(tables.layers["layer_name"]) - {""}, set(LAYERS)),
            same("default dtype", set(found["train.dtype"]), {Train().dtype}),
        )
    )
