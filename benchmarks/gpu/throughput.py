"""Cells a second on the device: stacked against one at a time, as ratios within one run."""

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
    """Size of what is timed.

    Parameters
    ----------
    cells
        Sizes of the stacks.
    steps, batch_size
        Of every cell.
    alone
        At most so many cells are timed one at a time; their mean stands for the others.
    repeats
        Times that each is timed; the median counts.
    overrides
        More overrides for every network.
    """

    cells: tuple[int, ...] = (1, 16, 128)
    steps: int = 30
    batch_size: int = 64
    alone: int = 4
    repeats: int = 1
    overrides: tuple[str, ...] = ()


TINY = Load(
    cells=(2,),
    steps=2,
    batch_size=16,
    alone=1,
    overrides=("data.image_side=16", "data.train_size=64"),
)


@dataclass(frozen=True)
class Throughput:
    """Seconds of training a cell, stacked and one at a time; `error` says why there are none."""

    network: str
    cells: int
    serial_seconds: float | None = None
    stacked_seconds: float | None = None
    error: str | None = None

    @property
    def ratio(self) -> float | None:
        """Cells a second, stacked over one at a time."""
        if self.serial_seconds is None or self.stacked_seconds is None:
            return None
        return self.serial_seconds / self.stacked_seconds


def throughputs(device: torch.device, load: Load) -> Iterator[Throughput]:
    """Time every network and number of cells; running out of memory ends one row, not the run."""
    for network, overrides in NETWORKS.items():
        for cells in load.cells:
            try:
                yield _measured(network, overrides, cells, device, load)
            except Exception as error:  # the next size may fit, and the report is still to come
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                yield Throughput(network, cells, error=reason)
                with suppress(RuntimeError):  # a device that has failed fails here again
                    torch.cuda.empty_cache()


def _measured(
    network: str, overrides: Sequence[str], cells: int, device: torch.device, load: Load
) -> Throughput:
    words = (*IMAGES, *overrides, *load.overrides, f"train.batch_size={load.batch_size}")
    configs = [config_of(*words, f"train.steps={load.steps}", f"seed={n}") for n in range(cells)]
    alone = configs[: load.alone]
    # The first steps choose convolution algorithms and load kernels.
    _train(_specs([config_of(*words, "train.steps=2")], device), device, stacked=False)
    warm_up = [config | {"train": config["train"] | {"steps": 2}} for config in configs]
    _train(_specs(warm_up, device), device, stacked=True)
    serial = [
        _train(_specs(alone, device), device, stacked=False) / len(alone)
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
    _wait_for(device)
    began = time.perf_counter()
    if stacked:
        ended = len(dict(train_stacked(specs, ignore_progress)))
    else:
        ended = len([train(spec, ignore_progress) for spec in specs])
    _wait_for(device)
    assert ended == len(specs)
    return time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
