"""Configs of cells from overrides, composed as `fanin run` composes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import ROOT
from experiments.cell import CellRun
from experiments.config.catalog import ConfigCatalog, config_loader
from experiments.sweep.cli import check_command, compose_catalog
from experiments.sweep.expand import expand
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.request import parse_request
from experiments.sweep.types import PlannedCell
from experiments.training.engines import TrainSpec

CPU = torch.device("cpu")
MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
CIFAR_MODELS = (
    "alexnet",
    "fitnet4",
    "plain",
    "resnet",
    "vgg",
)  # the others are measured on MNIST's shape
N_IMAGES = 2048


def models() -> list[str]:
    """Return the options of `model`, except those without a class of their own (`custom`)."""
    files = sorted((ROOT / "conf" / "model").glob("*.yaml"))
    return [file.stem for file in files if "???" not in file.read_text().splitlines()[0]]


def image_shape(model: str) -> tuple[int, int, int]:
    """Return channels, height and width of the images that a model is measured on."""
    return CIFAR if model in CIFAR_MODELS else MNIST


def image_file(folder: Path, shape: tuple[int, int, int]) -> Path:
    """Write random 8-bit images in the format of `data=arrays`, once; return the file."""
    path = folder / f"{'x'.join(map(str, shape))}.npz"
    if not path.exists():
        random = np.random.default_rng(0)
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {}
        for suffix, n in (("", N_IMAGES), ("_test", 256)):
            arrays[f"x{suffix}"] = random.integers(256, size=(n, *shape), dtype=np.uint8)
            arrays[f"y{suffix}"] = np.arange(n) % 10
        np.savez(path, **arrays)
    return path


def plan(overrides: Sequence[str]) -> list[PlannedCell]:
    """Plan a grid as the command line does."""
    loader = config_loader()
    checked = check_command(loader, "config", overrides, multirun=True)
    catalog = compose_catalog(loader, "config", ())
    return _expand(catalog, parse_arguments(loader, checked))


@cache
def config(*overrides: str) -> dict[str, Any]:
    """Return the config of one cell."""
    loader, catalog = _catalog()
    (cell,) = _expand(catalog, parse_arguments(loader, list(overrides)))
    return cell.config


def _expand(catalog: ConfigCatalog, arguments: Any) -> list[PlannedCell]:
    return expand(catalog, parse_request(catalog, arguments).grids)


@cache
def _catalog() -> tuple[Any, ConfigCatalog]:
    loader = config_loader()
    return loader, compose_catalog(loader, "config", ())


@cache
def specs(overrides: tuple[str, ...], cells: int) -> list[TrainSpec]:
    """Return the trainer's input for cells that differ in their seed, with drawn weights."""
    return [train_spec(config(*overrides, f"seed={seed}")) for seed in range(cells)]


def train_spec(cell_config: dict[str, Any]) -> TrainSpec:
    """Draw a cell's weights and return the trainer's input."""
    run = CellRun.start(cell_config, CPU)
    run.measure_draws()
    return run.train_spec()
