"""First and last cell of every named sweep: two steps, one draw, digits for real images."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch

from experiments.cell import run_cell
from experiments.config.catalog import CONF, ConfigCatalog, config_loader
from experiments.schema import coerce_group
from experiments.sweep.expand import expand
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.request import parse_request
from experiments.sweep.types import PlannedCell, pack_key

SWEEPS = sorted(path.stem for path in CONF.glob("sweep/*.yaml"))
STUDIES = [name for name in SWEEPS if "\nsource:" in (CONF / f"sweep/{name}.yaml").read_text()]
DOWNLOADED = {"mnist": 28, "cifar10": 32}  # data sets that need a download, and their image sides


@pytest.fixture(scope="module")
def catalog() -> ConfigCatalog:
    return ConfigCatalog(config_loader(), "config")


@cache
def cells_of(catalog: ConfigCatalog, sweep: str, size: str) -> list[PlannedCell]:
    arguments = [f"sweep={sweep}", f"sweep.size={size}"]
    return expand(
        catalog, parse_request(catalog, parse_arguments(config_loader(), arguments)).grids
    )


def shortened(catalog: ConfigCatalog, cell: PlannedCell) -> dict[str, Any]:
    config = copy.deepcopy(cell.config)
    named = str(cell.choices["data"])
    if named in DOWNLOADED:
        side = config["data"]["side"] or DOWNLOADED[named]
        config["data"] = coerce_group("data", catalog.node("data", "digits")) | {"side": side}
    if "image_side" not in config["data"]:  # synthetic data has a fixed size
        data = config["data"]
        sizes = {"n_train": ("train_size", 100), "n_test": ("test_size", 50)}
        data |= {key: min(data.get(size, limit), limit) for key, (size, limit) in sizes.items()}
    if config["train"]["steps"] != 0:
        config["train"] |= {"steps": 2, "batch_size": 20, "evaluate_every": 0}
    config["probe"] |= {"draws": min(1, config["probe"]["draws"]), "steps": []}
    return config


@pytest.mark.parametrize("sweep", SWEEPS)
def test_first_and_last_cell_of_each_sweep_run(catalog: ConfigCatalog, sweep: str) -> None:
    cells = cells_of(catalog, sweep, "standard")
    ends = [cells[0], cells[-1]]
    if pack_key(ends[0].config) == pack_key(ends[1].config):
        del ends[0]  # same data, network and optimizer
    for cell in ends:
        result = run_cell(shortened(catalog, cell), torch.device("cpu"))
        assert result.row["outcome"] in ("ok", "diverged"), cell.label
        if cell.config["probe"]["draws"]:
            assert len(result.tables["layers"]["value"]) > 0


@pytest.mark.parametrize("sweep", STUDIES)
def test_every_study_has_three_sizes(catalog: ConfigCatalog, sweep: str) -> None:
    small, standard, paper = (
        cells_of(catalog, sweep, size) for size in ("small", "standard", "paper")
    )
    assert len(small) < len(standard)
    assert len(paper) >= len(small)
    for cells in (small, paper):
        assert {cell.id for cell in cells} != {cell.id for cell in standard}
