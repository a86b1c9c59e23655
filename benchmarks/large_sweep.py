"""A large synthetic sweep: a real plan with random results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.config.catalog import config_loader
from experiments.config.identity import flatten
from experiments.result import CellResult
from experiments.sweep.cli import compose_catalog
from experiments.sweep.expand import expand
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.request import parse_request
from experiments.sweep.store.parquet import write_results
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import write_plan
from experiments.sweep.types import PlannedCell

AXES = (
    "init=he_normal,he_uniform,xavier_normal,xavier_uniform,lecun_normal,lecun_uniform,"
    "orthogonal,pytorch_default",
    "activation=relu,tanh,gelu,silu,selu",
    "model=two_layer,mlp",
    "optim.lr=0.001,0.003,0.01,0.03,0.1",
)
CELLS_PER_SEED = 8 * 5 * 2 * 5
PACK = 100


def plan(seeds: int) -> list[PlannedCell]:
    """Return the cells of a grid with `CELLS_PER_SEED` cells per seed."""
    loader = config_loader()
    overrides = [*AXES, f"seed=range({seeds})", "train.steps=1", "probe=none"]
    catalog = compose_catalog(loader, "config", ())
    request = parse_request(catalog, parse_arguments(loader, overrides))
    return expand(catalog, request.grids)


def fill(folder: SweepFolder, cells: Sequence[PlannedCell]) -> None:
    """Write a sweep's plan and random results in the format of the workers."""
    plan_info = {"name": folder.root.name, "question": "How fast?", "axes": [], "exclude": []}
    write_plan(folder, {}, cells, {}, plan_info)
    random = np.random.default_rng(0)
    for first in range(0, len(cells), PACK):
        results = [_result(cell, random) for cell in cells[first : first + PACK]]
        write_results(folder, f"pack{first:06}", results)


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
