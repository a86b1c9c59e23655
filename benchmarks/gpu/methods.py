"""Ways to train many cells on one device. Each returns steps of one cell per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmarks.gpu.cases import config_of
from experiments.schema import build_cell
from experiments.sweep.engines import synchronize
from experiments.training.engines import SerialEngine, StackedEngine, TrainSpec
from experiments.training.stacked_conv import ConvMethod

BATCH_SIZE = 64
LR = 0.01
WARM_UP = 5  # steps; the fourth step of a stack captures its graph
Overrides = tuple[str, ...]


Start = Callable[[], float]  # called after the warm-up; returns the time.monotonic() of the start


def rate(
    step: Callable[[int], object],
    device: torch.device,
    seconds: float,
    cells: int,
    start: Start = time.monotonic,
) -> float:
    """Run a step repeatedly for about `seconds`; return cells times steps per second.

    Parameters
    ----------
    step
        Called with the number of the step.
    device
        The device that the step runs on.
    seconds
        Duration after the warm-up. At least two steps are run.
    cells
        Number of cells that each step trains.
    start
        Returns the time at which the measurement starts, after waiting for it.
    """
    for number in range(WARM_UP):
        step(number)
    synchronize(device)
    started, n_steps = start(), 0
    while n_steps < 2 or time.monotonic() < started + seconds:
        # Wait now and then, or the host would queue steps for much longer than `seconds`.
        for _ in range(2 if n_steps < 16 else 16):
            step(WARM_UP + n_steps)
            n_steps += 1
        synchronize(device)
    return cells * n_steps / (time.monotonic() - started)


def one_by_one(specs: Sequence[TrainSpec], device: torch.device, seconds: float) -> float:
    """Train one cell with `engine=serial`. More cells take as much time each."""
    return rate(SerialEngine(specs[:1]).step, device, seconds, 1)


def stacked(
    specs: Sequence[TrainSpec], device: torch.device, seconds: float, conv: ConvMethod = "auto"
) -> float:
    """Train all cells with `engine=stacked`."""
    return rate(StackedEngine(specs, conv).step, device, seconds, len(specs))


def plain_vmap(specs: Sequence[TrainSpec], device: torch.device, seconds: float) -> float:
    """Train all cells by `torch.vmap`, as in PyTorch's tutorial on model ensembling."""
    models = [spec.step.model for spec in specs]
    params: dict[str, Tensor] = stack_module_state(models)[0]
    images, labels = device_data(specs[0])

    def loss_of(one: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(models[0], one, (x,)), y)

    gradients = vmap(grad(loss_of))
    state = {name: parameter.detach() for name, parameter in params.items()}

    def step(number: int) -> None:
        index = torch.randint(len(images), (len(specs), BATCH_SIZE), device=device)
        computed = gradients(state, images[index], labels[index])
        for name, gradient in computed.items():
            state[name] = state[name] - LR * gradient

    return rate(step, device, seconds, len(specs))


def plain_loop(
    overrides: Overrides, device: torch.device, seconds: float, start: Start = time.monotonic
) -> float:
    """Train one cell with the loop that people write, with the data on the device."""
    cell = build_cell(config_of(*overrides))
    model = cell.network().to(device).train()
    images = torch.randn(cell.data.source.train_size, *cell.data.shape, device=device)
    labels = torch.randint(cell.objective.n_outputs, (len(images),), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)

    def step(number: int) -> None:
        index = torch.randint(len(images), (BATCH_SIZE,), device=device)
        optimizer.zero_grad()
        F.cross_entropy(model(images[index]), labels[index]).backward()
        optimizer.step()

    return rate(step, device, seconds, 1, start)


def device_data(spec: TrainSpec) -> tuple[Tensor, Tensor]:
    """Return the scaled training images and the labels, on the device."""
    dtype = spec.cell.train.torch_dtype
    return spec.scaling.apply(spec.data.train.x, dtype), spec.data.train.y
