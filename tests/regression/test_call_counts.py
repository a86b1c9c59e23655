"""Number of calls of frequent operations: a training step, a plan, a load and a certificate.

A change that makes an operation do its work twice, or for each pair of its elements, fails here. A
loop inside a single call of a library does not count.

After a change that is meant to change a number, replace it by the one in the message.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from calls import count_calls
from torch import nn

from analysis import load
from experiments.cell import run_cell
from experiments.config.catalog import ConfigCatalog, assign, config_loader
from experiments.result import CellResult
from experiments.schema import coerce_cell
from experiments.stack import run_stack
from experiments.sweep.expand import expand
from experiments.sweep.grid import Axis, Grid
from experiments.sweep.store.parquet import write_results
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import record_request, write_plan
from experiments.sweep.store.tables import read_tables
from experiments.sweep.types import PlannedCell
from fanin.theory import certify

pytestmark = pytest.mark.slow

MARGIN = 0.05  # relative; between two runs of the same code the numbers are equal
SMALL = {"data.n_train": 64, "data.n_test": 32, "data.side": 8, "train.batch_size": 8}
STEPS = 10
PACK = 10  # cells

# Calls of this repository's code (`count_calls`).
SERIAL_STEP = 66
STACKED_STEP, STACKED_CELL = 143, 5.7  # two cells, each further cell
PLAN, FURTHER_PLAN = 135_846, 130_150  # 1,000 cells
LOAD, FURTHER_LOAD = 41_646, 41_320  # 200 cells in 20 packs
READ, FURTHER_READ = 1_548, 1_400  # 20 packs, part of a load
CERTIFICATE, FURTHER_CERTIFICATE = 18_337, 17_918  # 4 layers


def check(name: str, counted: float, expected: float) -> None:
    """Compare a number of calls with the stored one."""
    assert counted == pytest.approx(expected, rel=MARGIN), (
        f"{name}: {counted:,.1f} calls instead of {expected:,.1f}. If that is intended, store "
        f"{counted:.1f} in {Path(__file__).name}"
    )


def config(steps: int, seed: int = 0) -> dict[str, Any]:
    catalog = ConfigCatalog(config_loader(), "config")
    base = assign(catalog.base, "probe", catalog.node("probe", "none"))
    for key, value in {**SMALL, "train.steps": steps, "seed": seed}.items():
        base = assign(base, key, value)
    return coerce_cell(base)


def calls_per_step(run: Callable[[int], None]) -> float:
    """Return the calls of one more training step."""
    run(STEPS)  # imports, caches
    return (count_calls(lambda: run(2 * STEPS)) - count_calls(lambda: run(STEPS))) / STEPS


def test_calls_of_a_training_step() -> None:
    def run(steps: int) -> None:
        run_cell(config(steps), torch.device("cpu"))

    check("training step", calls_per_step(run), SERIAL_STEP)


def test_calls_of_a_stacked_training_step() -> None:
    def run(steps: int, cells: int) -> None:
        configs = [config(steps, seed) for seed in range(cells)]
        for _, result in run_stack(configs, torch.device("cpu")):
            assert isinstance(result, CellResult)

    counted = {n: calls_per_step(lambda steps, n=n: run(steps, n)) for n in (2, 6)}
    check("stacked step of 2 cells", counted[2], STACKED_STEP)
    check("a further cell in a stacked step", (counted[6] - counted[2]) / 4, STACKED_CELL)


def plan(cells: int) -> list[PlannedCell]:
    """Plan cells that differ in two groups, a number and the seed."""
    catalog = ConfigCatalog(config_loader(), "config")
    axes = (
        Axis("init", ({"init": "he_normal"}, {"init": "xavier_normal"})),
        Axis("activation", ({"activation": "relu"}, {"activation": "tanh"})),
        Axis("optim.lr", tuple({"optim.lr": value} for value in (0.1, 0.01, 0.001, 0.3, 0.03))),
        Axis("seed", tuple({"seed": seed} for seed in range(cells // 20))),
    )
    return expand(catalog, [Grid(axes)])


def test_calls_of_a_plan() -> None:
    plan(20)
    counted = {cells: count_calls(lambda cells=cells: plan(cells)) for cells in (1000, 2000)}
    check("plan of 1,000 cells", counted[1000], PLAN)
    check("1,000 further cells", counted[2000] - counted[1000], FURTHER_PLAN)


def stored_sweep(folder: SweepFolder, n_cells: int) -> None:
    """Store cells with rows in `layers`, in packs of `PACK` cells, with their plan."""
    cells = plan(n_cells)
    layers = {"layer": [1, 2, 3], "layer_name": ["a", "b", "c"], "value": [0.5] * 3}
    row = {"outcome": "ok", "attempt": 1, "seconds": 1.0, "outcome_reason": None}
    results = [CellResult({"cell_id": cell.id, **row}, {"layers": layers}) for cell in cells]
    for start in range(0, n_cells, PACK):
        write_results(folder, f"pack{start:06}", results[start : start + PACK])
    write_plan(folder, {}, cells, {}, {}, {"name": folder.root.name})
    record_request(folder, [cell.id for cell in cells])


def test_calls_of_a_load(tmp_path: Path) -> None:
    loads, reads = {}, {}
    for cells in (200, 400):
        folder = SweepFolder(tmp_path / str(cells))
        stored_sweep(folder, cells)
        assert len(load(str(cells), tmp_path).layers) == 3 * cells
        loads[cells] = count_calls(lambda cells=cells: load(str(cells), tmp_path))
        reads[cells] = count_calls(lambda folder=folder: read_tables(folder))
    check("load of 200 cells", loads[200], LOAD)
    check("200 further cells", loads[400] - loads[200], FURTHER_LOAD)
    check("read of the tables of 20 packs", reads[200], READ)
    check("20 further packs", reads[400] - reads[200], FURTHER_READ)


def certificate(depth: int) -> None:
    """Certify a narrow ReLU network."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, 16)]
    for _ in range(depth - 2):
        layers += [nn.ReLU(), nn.Linear(16, 16)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(16, 10))
    images = torch.linspace(0, 1, 2 * 64).reshape(2, 1, 8, 8)
    certify(model, images, init="he_normal", quiet=True)


def test_calls_of_a_certificate() -> None:
    for depth in (4, 8):
        certificate(depth)
    counted = {depth: count_calls(lambda depth=depth: certificate(depth)) for depth in (4, 8)}
    check("certificate of 4 layers", counted[4], CERTIFICATE)
    check("4 further layers", counted[8] - counted[4], FURTHER_CERTIFICATE)
