"""A large synthetic sweep: a real plan with random results."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.cells import plan
from experiments.config.identity import flatten
from experiments.result import CellResult
from experiments.sweep.store.parquet import write_results
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import write_plan
from experiments.sweep.types import PlannedCell

INITS = (
    "init=he_normal,he_uniform,xavier_normal,xavier_uniform,lecun_normal,lecun_uniform,"
    "orthogonal,pytorch_default,normal,zeros"
)
RATES = "optim.lr=0.0001,0.0003,0.001,0.003,0.01,0.03,0.1,0.3,1.0,3.0"
PACK = 100  # cells per part file
QUANTITIES = (
    *("preact_mean", "preact_m2", "preact_var", "act_m2"),
    *("vjp_m2", "weight_vjp_m2", "grad_m2", "weight_grad_m2"),
)
LAYERS, DRAWS = 10, 8


def grid(cells: int) -> list[str]:
    """Return the overrides of a grid of 10, 100, 1,000, ... cells.

    Examples
    --------
    >>> grid(20)
    Traceback (most recent call last):
    ValueError: 20 cells: expected a power of ten, at least 10
    """
    if cells not in {10**power for power in range(1, 9)}:
        raise ValueError(f"{cells} cells: expected a power of ten, at least 10")
    axes = [INITS, "train.steps=1", "probe=none"]
    if cells >= 100:
        axes += ["activation=relu,tanh,gelu,silu,selu", "model=two_layer,mlp"]
    if cells >= 1000:
        axes += [RATES]
    return [*axes, f"seed=range({max(cells // 1000, 1)})"]


def planned(cells: int) -> list[PlannedCell]:
    """Plan the grid of `grid`."""
    return plan(grid(cells))


def fill(folder: SweepFolder, cells: Sequence[PlannedCell]) -> float:
    """Write a sweep's plan and random results; return the seconds to write the results."""
    plan_info = {"name": folder.root.name, "question": "How fast?", "axes": [], "exclude": []}
    write_plan(folder, {}, cells, {}, {}, plan_info)
    random = np.random.default_rng(0)
    return write_packs(folder, (_result(cell, random) for cell in cells), PACK)


def fill_layers(folder: SweepFolder, cells: Sequence[PlannedCell], pack: int = 16) -> float:
    """Write a sweep with random measurements of layers; return the seconds to write them."""
    plan_info = {"name": folder.root.name, "question": "How fast?", "axes": [], "exclude": []}
    write_plan(folder, {}, cells, {}, {}, plan_info)
    random = np.random.default_rng(0)
    results = (CellResult(_result(c, random).row, {"layers": _layers(random)}) for c in cells)
    return write_packs(folder, results, pack)


def write_packs(folder: SweepFolder, results: Iterable[CellResult], pack: int) -> float:
    """Write results in packs of cells, as the workers do; return the seconds of writing."""
    seconds, number, iterator = 0.0, 0, iter(results)
    while batch := [result for _, result in zip(range(pack), iterator, strict=False)]:
        started = time.perf_counter()
        write_results(folder, f"pack{number:06}", batch)
        seconds += time.perf_counter() - started
        number += 1
    return seconds


def _layers(random: np.random.Generator) -> dict[str, list[object]]:
    keys = [
        (draw, layer, quantity)
        for draw in range(DRAWS)
        for layer in range(1, LAYERS + 1)
        for quantity in QUANTITIES
    ]
    return {
        "image": [-1] * len(keys),
        "layer": [layer for _, layer, _ in keys],
        "layer_name": [f"conv{layer}" for _, layer, _ in keys],
        "quantity": [quantity for _, _, quantity in keys],
        "value": list(random.lognormal(size=len(keys))),
        "draw": [draw for draw, _, _ in keys],
        "step": [0] * len(keys),
    }


def _result(cell: PlannedCell, random: np.random.Generator) -> CellResult:
    diverged = random.random() < 0.1
    row = {
        **{"cell_id": cell.id, **cell.choices, **dict(flatten(cell.config))},
        "outcome": "diverged" if diverged else "ok",
        "outcome_step": 1 if diverged else None,
        "outcome_tensor": "loss" if diverged else None,
        "outcome_reason": "inf" if diverged else None,
        "test_accuracy": float("nan") if diverged else random.beta(8, 2),
        "test_loss": float("nan") if diverged else random.lognormal(),
        "train_loss": float("inf") if diverged else random.lognormal(),
        "seconds": random.lognormal(),
        **{"engine": "serial", "attempt": 1, "host": "here", "device": "cpu", "threads": 1},
        **{"code": "none", "python": "3", "torch": "2", "numpy": "2"},
    }
    return CellResult(row, {})
