"""Check of `engine=auto`: 40 settings in which it has to choose the faster engine.

`python -m benchmarks.engine_settings` prints how much slower than the better engine its choice is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import config_of, ignore_progress, train_spec
from experiments.sweep.engines import TIMED_CELLS, run_trial
from experiments.sweep.worker.limits import prepare_torch
from experiments.training.loop import train, train_stacked

MODELS = {
    "linear": ("model=linear",),
    "mlp, width 32": ("model=mlp", "model.width=32"),
    "mlp, width 128": ("model=mlp", "model.width=128"),
    "two_layer, 4 channels": ("model=two_layer", "model.pool=true", "model.channels=4"),
    "two_layer, 16 channels": ("model=two_layer", "model.pool=true", "model.channels=16"),
    "two_layer, 32 channels": ("model=two_layer", "model.pool=true", "model.channels=32"),
    "plain, 4 channels": ("model=plain", "model.depth=4", "model.width=4"),
    "alexnet, 8 channels": ("model=alexnet", "model.width=8", "model.dense=64"),
}
CELLS = (2, 4, 8, 16, 32)
SETTINGS = [(name, cells) for name in MODELS for cells in CELLS]
COMMON = (
    *("data.image_side=28", "data.channels=1", "data.classes=10", "data.train_size=1024"),
    *("activation=relu", "train.batch_size=32", "optim.lr=0.01"),
)
MAX_SERIAL = 4  # cells that are trained one by one; others take as long
TRIAL_STEPS, MIN_STEPS, MAX_STEPS = 10, 16, 400
SLACK = 1.05  # the choice is wrong if it takes this many times as long as the better engine


def measure(name: str, cells: int, repeats: int, seconds: float) -> dict[str, Any]:
    """Return the CPU time of a cell's step under each engine, and the choice of `engine=auto`.

    Parameters
    ----------
    name, cells
        A member of `SETTINGS`.
    repeats
        Number of measurements of each engine, in turn.
    seconds
        Approximate CPU time of one measurement of one engine.
    """
    device = torch.device("cpu")

    def specs(steps: int) -> list[Any]:
        overrides = (*COMMON, *MODELS[name], f"train.steps={steps}")
        return [train_spec(config_of(*overrides, f"seed={seed}"), device) for seed in range(cells)]

    n_serial = min(cells, MAX_SERIAL)
    (first, *_) = specs(TRIAL_STEPS)
    step = _time(lambda: train(first, ignore_progress)) / TRIAL_STEPS
    steps = max(MIN_STEPS, min(MAX_STEPS, int(seconds / (step * n_serial))))
    networks = specs(steps)
    trial_cells = range(min(cells, TIMED_CELLS))
    overrides = (*COMMON, *MODELS[name], f"train.steps={steps}")
    configs = [config_of(*overrides, f"seed={seed}") for seed in trial_cells]
    trial = run_trial(configs, "cpu", cells)

    def serial() -> float:
        chosen = networks[:n_serial]
        return _time(lambda: [train(spec, ignore_progress) for spec in chosen]) / n_serial / steps

    def stacked() -> float:
        return _time(lambda: list(train_stacked(networks, ignore_progress))) / cells / steps

    times: dict[str, list[float]] = {"serial": [], "stacked": []}
    for _ in range(repeats):
        times["serial"].append(serial())
        times["stacked"].append(stacked())
    medians = {engine: statistics.median(values) for engine, values in times.items()}
    return {
        "model": name,
        "cells": cells,
        "repeats": repeats,
        **{f"{engine}_ms": 1e3 * value for engine, value in medians.items()},
        "auto": trial.faster,
        "slowdown": medians[trial.faster] / min(medians.values()),
    }


def _time(action: Callable[[], object]) -> float:
    started = time.thread_time()
    action()
    return time.thread_time() - started


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all settings; print one line for each, and the number of wrong choices."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine_settings")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of one measurement")
    parser.add_argument("--json", type=Path, default=Path("outputs/engine_settings.json"))
    args = parser.parse_args(arguments)
    prepare_torch()
    results = []
    for name, cells in SETTINGS:
        result = measure(name, cells, args.repeats, args.seconds)
        results.append(result)
        ratio = result["serial_ms"] / result["stacked_ms"]
        print(
            f"{name}, {cells} cells: stacked is {ratio:.2f} times as fast as serial; "
            f"auto: {result['auto']}, slower by {result['slowdown'] - 1:.1%}",
            flush=True,
        )
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1))
    wrong = sum(result["slowdown"] > SLACK for result in results)
    print(f"{wrong} of {len(results)} choices are more than {SLACK - 1:.0%} slower than the better")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
