"""Throughput of all ways to train many cells on one device, by network, data and number of cells.

The images are random, in the shapes of MNIST and CIFAR-10, because a GPU machine may have no data.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial

import torch

from benchmarks.gpu.cases import config_of, train_spec
from benchmarks.gpu.flags import SUITE, TORCH_DEFAULTS, Flags
from benchmarks.gpu.methods import (
    BATCH_SIZE,
    LR,
    Overrides,
    one_by_one,
    plain_loop,
    plain_vmap,
    stacked,
)
from benchmarks.gpu.processes import Processes
from benchmarks.page import Table
from experiments.training.cuda_graph import CAPTURES
from experiments.training.engines import TrainSpec

NETWORKS = {
    "two_layer": ("model=two_layer", "model.pool=true"),
    "alexnet": ("model=alexnet",),
    "plain 10": ("model=plain", "model.depth=10"),
}
DATA = {
    "MNIST": ("data.image_side=28", "data.channels=1"),
    "CIFAR-10": ("data.image_side=32", "data.channels=3"),
}
COMMON = ("data.classes=10", "activation=relu", "data.train_size=4096", f"optim.lr={LR}")
TRAIN_IMAGES = {"MNIST": 60_000, "CIFAR-10": 50_000}
CONV_CELLS = 128  # number of cells for which both forms of the convolutions are measured
ONE_BY_ONE, STACKED = "one by one", "stacked"
DEFAULT_LOOP = "plain loop, torch's defaults"


@dataclass(frozen=True)
class Size:
    """Sizes of the measurement.

    Parameters
    ----------
    cells
        Numbers of stacked cells.
    seconds
        Duration of a measurement after its warm-up.
    processes
        Number of processes on the device.
    deadline
        Seconds after which the remaining measurements are skipped.
    overrides
        Additional overrides for all cells.
    """

    cells: tuple[int, ...] = (1, 16, 128, 1024)
    seconds: float = 1.5
    processes: int = 4
    deadline: float = 390.0
    overrides: Overrides = ()


TINY_SIZE = Size(
    cells=(1, 2),
    seconds=0.0,
    processes=2,
    overrides=(
        *("data.image_side=16", "data.train_size=128", "model.width=4", "model.channels=4"),
        *("model.depth=3", "model.dense=8"),
    ),
)


@dataclass(frozen=True)
class Rate:
    """Steps of one cell per second, or the reason why there is none.

    Parameters
    ----------
    flags
        torch's flags during the measurement (`benchmarks/gpu/flags.py`).
    cuda_graphs
        Number of CUDA graphs captured in it.
    error
        Reason why the measurement failed, or differs from the others.
    """

    network: str
    data: str
    method: str
    cells: int
    steps_per_second: float | None = None
    flags: dict[str, bool] | None = None
    cuda_graphs: int = 0
    error: str | None = None


@dataclass(frozen=True)
class _Measurement:
    """A measurement that has not been run yet.

    `run` returns the rate, and the flags that other processes have used.
    """

    method: str
    cells: int
    run: Callable[[], tuple[float, Flags | None]]
    flags: Flags = SUITE
    in_this_process: bool = True


def rates(device: torch.device, size: Size) -> Iterator[Rate]:
    """Measure everything, the most important first.

    An error, for example a lack of memory, affects only the measurement that raised it. After a
    failed capture of a CUDA graph, only other processes measure.
    """
    started = time.perf_counter()
    with Processes(size.processes, device) as processes:
        for data in DATA:
            for network in NETWORKS:
                overrides = _overrides(network, data, size)
                measurements = [
                    *_measurements(overrides, _Specs(overrides, device), size, device),
                    _Measurement(
                        f"{size.processes} processes",
                        size.processes,
                        partial(processes, overrides, size.seconds, SUITE),
                        in_this_process=False,
                    ),
                ]
                for measurement in measurements:
                    names = (network, data, measurement.method, measurement.cells)
                    if time.perf_counter() - started > size.deadline:
                        yield Rate(*names, error="skipped: out of time")
                    elif CAPTURES.failure is not None and measurement.in_this_process:
                        yield Rate(*names, error="skipped: a capture failed in this process")
                    else:
                        yield _rate(network, data, measurement)


def _measurements(
    overrides: Overrides, specs: _Specs, size: Size, device: torch.device
) -> Iterator[_Measurement]:
    seconds = size.seconds

    def this_process(
        method: str, cells: int, run: Callable[[], float], flags: Flags = SUITE
    ) -> _Measurement:
        return _Measurement(method, cells, lambda: (run(), None), flags)

    def train(method: Callable[..., float], cells: int, *options: str) -> Callable[[], float]:
        return lambda: method(specs(cells), device, seconds, *options)

    yield this_process(ONE_BY_ONE, 1, train(one_by_one, 1))
    for method, flags in (("plain loop", SUITE), (DEFAULT_LOOP, TORCH_DEFAULTS)):
        yield this_process(method, 1, lambda: plain_loop(overrides, device, seconds), flags)
    for cells in size.cells:
        yield this_process(STACKED, cells, train(stacked, cells))
        yield this_process("plain vmap", cells, train(plain_vmap, cells))
    n_conv = min(CONV_CELLS, max(size.cells))
    for form in ("grouped", "bmm"):
        yield this_process(f"{STACKED}, {form}", n_conv, train(stacked, n_conv, form))


class _Specs:
    """The cells of one network and data set, which differ in their seed; each is made once."""

    def __init__(self, overrides: Overrides, device: torch.device) -> None:
        self._overrides, self._device = overrides, device
        self._specs: list[TrainSpec] = []

    def __call__(self, cells: int) -> list[TrainSpec]:
        """Return the first cells."""
        for seed in range(len(self._specs), cells):
            config = config_of(*self._overrides, f"seed={seed}")
            self._specs.append(train_spec(config, self._device))
        return self._specs[:cells]


def _overrides(network: str, data: str, size: Size) -> Overrides:
    model = NETWORKS[network]
    # A tiny size has settings of all models.
    own = {"two_layer": ["channels"], "alexnet": ["width", "dense"], "plain 10": ["width", "depth"]}
    keys = [f"model.{key}" for key in own[network]]
    extra = [
        text
        for text in size.overrides
        if not text.startswith("model.") or text.partition("=")[0] in keys
    ]
    steps = f"train.steps={10**6}"
    return (*COMMON, *DATA[data], *model, f"train.batch_size={BATCH_SIZE}", steps, *extra)


def _rate(network: str, data: str, measurement: _Measurement) -> Rate:
    """Run a measurement with its flags."""
    names = (network, data, measurement.method, measurement.cells)
    captured, error = CAPTURES.count, None
    try:
        measurement.flags.set()
        speed, used = measurement.run()
        flags = asdict(used or Flags.current())
        if flags != asdict(measurement.flags):
            error = "other flags than intended"
        if CAPTURES.failure is not None and measurement.in_this_process:
            error = f"measured without a CUDA graph: {CAPTURES.failure}"
        return Rate(*names, speed, flags, CAPTURES.count - captured, error)
    except Exception as exception:  # the next measurement may succeed
        reason = f"{type(exception).__name__}: {' '.join(str(exception).split())[:200]}"
        return Rate(*names, error=reason)
    finally:
        gc.collect()
        with suppress(RuntimeError):  # raised again if the device has failed
            torch.cuda.empty_cache()


def table(measured: list[Rate]) -> Table:
    """Return the rates, each with its ratio to one by one and the seconds of an epoch."""
    base = {(r.network, r.data): r.steps_per_second for r in measured if r.method == ONE_BY_ONE}
    rows: list[tuple[str, ...]] = []
    for r in measured:
        reference = base.get((r.network, r.data))
        speed = r.steps_per_second
        epoch_steps = TRAIN_IMAGES[r.data] // BATCH_SIZE
        rows.append(
            (
                *(r.network, r.data, r.method, str(r.cells)),
                (r.error or "") if speed is None else f"{speed:.0f}",
                f"{speed / reference:.2f}" if speed and reference else "",
                f"{epoch_steps * r.cells / speed:.1f}" if speed else "",
            )
        )
    return Table(
        title="Throughput of many cells on one device",
        columns=(
            *("network", "images like", "method", "cells", "steps of a cell per second"),
            *("relative to one by one", "s for an epoch of all cells"),
        ),
        rows=tuple(rows),
        remarks=(
            f"Batches of {BATCH_SIZE} images, float32, SGD; one run of each, with warm-up. "
            "Plain loop and plain vmap are written with torch alone. All but the loop with torch's "
            "defaults use deterministic algorithms and no TF32.",
        ),
    )
