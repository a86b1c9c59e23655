"""Ways to train many cells on one device. Each returns steps of one cell per second."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmarks.gpu.cases import config_of
from experiments.schema import build_cell
from experiments.training.engines import SerialEngine, StackedEngine, TrainSpec
from experiments.training.stacked_conv import ConvMethod

BATCH_SIZE = 64
LR = 0.01
WARM_UP = 5  # steps; the fourth step of a stack captures its graph
Overrides = tuple[str, ...]


def rate(step: Callable[[int], object], device: torch.device, seconds: float, cells: int) -> float:
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
    """
    for number in range(WARM_UP):
        step(number)
    _synchronize(device)
    started, n_steps = time.perf_counter(), 0
    while n_steps < 2 or time.perf_counter() - started < seconds:
        # Wait now and then, or the host would queue steps for much longer than `seconds`.
        for _ in range(2 if n_steps < 16 else 16):
            step(WARM_UP + n_steps)
            n_steps += 1
        _synchronize(device)
    return cells * n_steps / (time.perf_counter() - started)


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


def plain_loop(overrides: Overrides, device: torch.device, seconds: float) -> float:
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

    return rate(step, device, seconds, 1)


def device_data(spec: TrainSpec) -> tuple[Tensor, Tensor]:
    """Return the scaled training images and the labels, on the device."""
    dtype = spec.cell.train.torch_dtype
    return spec.scaling.apply(spec.data.train.x, dtype), spec.data.train.y


class Processes:
    """Processes that run `plain_loop` on one device at the same time.

    Parameters
    ----------
    n_processes
        Number of processes. They start once, because `import torch` takes seconds.
    device
        Their device.
    """

    def __init__(self, n_processes: int, device: torch.device) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(n_processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, str(device)), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def __call__(self, overrides: Overrides, seconds: float) -> float:
        """Return the sum of the processes' rates.

        Raises
        ------
        RuntimeError
            A process failed or ended.
        """
        for pipe in self._pipes:
            pipe.send((overrides, seconds))
        try:
            answers = [pipe.recv() for pipe in self._pipes]
        except EOFError:
            raise RuntimeError("a process has ended") from None
        for answer in answers:
            if isinstance(answer, str):
                raise RuntimeError(answer)
        return sum(answers)


def _serve(pipe: Connection, device: str) -> None:
    """Answer requests with a rate, or with the message of an error."""
    torch.set_num_threads(1)
    while True:
        overrides, seconds = pipe.recv()
        answer: Any
        try:
            answer = plain_loop(overrides, torch.device(device), seconds)
        except Exception as error:  # an out-of-memory error, for example
            answer = f"{type(error).__name__}: {error}"
        pipe.send(answer)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
