"""Throughput on the device: cells trained in a stack, compared with cells trained one at a time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from benchmarks.gpu.cases import config_of, train_spec
from benchmarks.gpu.methods import one_by_one, stacked
from experiments.training.cuda_graph import CAPTURES

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
    seconds, batch_size
        Duration of a measurement after its warm-up, and batch size of each cell.
    repeats
        Number of measurements; the median is used.
    overrides
        Additional overrides for all networks.
    """

    cells: tuple[int, ...] = (1, 16, 128)
    seconds: float = 1.0
    batch_size: int = 64
    repeats: int = 1
    overrides: tuple[str, ...] = ()


TINY = Load(
    cells=(2,),
    seconds=0.0,
    batch_size=16,
    overrides=("data.image_side=16", "data.train_size=64"),
)


@dataclass(frozen=True)
class Throughput:
    """Seconds of a step per cell, stacked and one at a time, or the error of the measurement."""

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
    """Return the medians. The steps before each measurement load kernels and capture the graph."""
    common = (*IMAGES, *overrides, *load.overrides, f"train.batch_size={load.batch_size}")
    configs = [config_of(*common, f"train.steps={10**6}", f"seed={n}") for n in range(cells)]
    specs = [train_spec(config, device) for config in configs]
    serial = [one_by_one(specs, device, load.seconds) for _ in range(load.repeats)]
    together = [stacked(specs, device, load.seconds) for _ in range(load.repeats)]
    if CAPTURES.failure is not None:
        raise RuntimeError(f"CUDA graph not captured: {CAPTURES.failure}")
    return Throughput(
        network, cells, 1 / statistics.median(serial), 1 / statistics.median(together)
    )
