"""Throughput on the device: cells trained in a stack, compared with cells trained one at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.cases import config_of, ignore_progress, train_spec
from experiments.training.engines import TrainSpec
from experiments.training.loop import train, train_stacked

NETWORKS = {
    "two_layer": ("model=two_layer", "model.pool=true"),
    "alexnet": ("model=alexnet",),
}
IMAGES = ("data.image_side=28", "data.classes=10", "activation=relu", "data.train_size=2048")


@dataclass(frozen=True)
class Load:
    """Sizes of a throughput measurement.

    Parameters
    ----------
    cells
        Sizes of the stacks.
    steps, batch_size
        Steps and batch size of each cell.
    max_serial
        Maximum number of cells that are timed one at a time; their mean is used for all cells.
    repeats
        Number of measurements; the median is used.
    overrides
        Additional overrides for all networks.
    """

    cells: tuple[int, ...] = (1, 16, 128)
    steps: int = 30
    batch_size: int = 64
    max_serial: int = 4
    repeats: int = 1
    overrides: tuple[str, ...] = ()


TINY = Load(
    cells=(2,),
    steps=2,
    batch_size=16,
    max_serial=1,
    overrides=("data.image_side=16", "data.train_size=64"),
)


@dataclass(frozen=True)
class Throughput:
    """Training seconds per cell, stacked and one at a time, or the error of the measurement."""

    network: str
    cells: int
    serial_seconds: float | None = None
    stacked_seconds: float | None = None
    error: str | None = None

    @property
    def ratio(self) -> float | None:
        """Cells per second, stacked relative to one at a time."""
        if self.serial_seconds is None or self.stacked_seconds is None:
            return None
        return self.serial_seconds / self.stacked_seconds


def throughputs(device: torch.device, load: Load) -> Iterator[Throughput]:
    """Time all networks and numbers of cells.

    An error, for example a lack of memory, affects only the measurement that raised it.
    """
    for network, overrides in NETWORKS.items():
        for cells in load.cells:
            try:
                yield _measure(network, overrides, cells, device, load)
            except Exception as error:  # the next measurement may succeed
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                yield Throughput(network, cells, error=reason)
                with suppress(RuntimeError):  # raised again if the device has failed
                    torch.cuda.empty_cache()


def _measure(
    network: str, overrides: Sequence[str], cells: int, device: torch.device, load: Load
) -> Throughput:
    common = (*IMAGES, *overrides, *load.overrides, f"train.batch_size={load.batch_size}")
    configs = [config_of(*common, f"train.steps={load.steps}", f"seed={n}") for n in range(cells)]
    serial_configs = configs[: load.max_serial]
    # Warm up: the first steps select convolution algorithms and load kernels.
    _train(_specs([config_of(*common, "train.steps=2")], device), device, stacked=False)
    warm_up = [config | {"train": config["train"] | {"steps": 2}} for config in configs]
    _train(_specs(warm_up, device), device, stacked=True)
    serial = [
        _train(_specs(serial_configs, device), device, stacked=False) / len(serial_configs)
        for _ in range(load.repeats)
    ]
    stacked = [
        _train(_specs(configs, device), device, stacked=True) / cells for _ in range(load.repeats)
    ]
    return Throughput(network, cells, statistics.median(serial), statistics.median(stacked))


def _specs(configs: Sequence[dict[str, Any]], device: torch.device) -> list[TrainSpec]:
    return [train_spec(config, device) for config in configs]


def _train(specs: Sequence[TrainSpec], device: torch.device, stacked: bool) -> float:
    """Train the cells; return the seconds until the device has finished."""
    _synchronize(device)
    started = time.perf_counter()
    if stacked:
        n_results = len(dict(train_stacked(specs, ignore_progress)))
    else:
        n_results = len([train(spec, ignore_progress) for spec in specs])
    _synchronize(device)
    assert n_results == len(specs)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
