"""Engines: train one network, or a stack of networks under `torch.vmap`.

Both engines run the same step (`training/step.py`) on the same batches. A network's result does not
depend on the other networks of its stack (`training/stack_size.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from experiments.data import Dataset
from experiments.scaling import FittedScaling
from experiments.schema import Cell
from experiments.training.checkpoint import Checkpointer, TrainState
from experiments.training.cpu_performance import keep_freed_memory, optimized
from experiments.training.cuda_graph import Capture, GraphedFunction, capture_cuda, copy_tree
from experiments.training.in_place import InPlaceNetwork, can_be_copied
from experiments.training.loader import BatchInputs, BatchLoader, StackedBatchLoader, to_device
from experiments.training.stack_size import stack_padding
from experiments.training.stacked_conv import ConvMethod, with_stacked_convs
from experiments.training.step import (
    NetworkState,
    Params,
    StepConfig,
    by_autograd,
    by_torch_func,
    initial_state,
    make_step,
)


@dataclass(frozen=True)
class TrainSpec:
    """A network to train: its cell, step and data, and the callbacks.

    Parameters
    ----------
    on_probe
        Called with (n, params) after n training steps, for each n in `probe.steps`.
    resume
        Training state to resume from; None starts with the model's weights.
    checkpointer
        Decides when to save. None disables checkpointing.
    on_save
        Called with the training state when it is time to save.
    """

    cell: Cell
    step: StepConfig
    data: Dataset
    scaling: FittedScaling
    on_probe: Callable[[int, Params], None]
    resume: TrainState | None = None
    checkpointer: Checkpointer | None = None
    on_save: Callable[[TrainState], None] = lambda train_state: None


class Engine(Protocol):
    """Protocol of an engine: networks that take each step together."""

    loaders: list[BatchLoader]  # one per network

    def step(self, number: int) -> Tensor:
        """Take one step; return one loss per network."""

    def failed_at(self) -> Tensor:
        """Return for each network the step at which it diverged, or `ALIVE`."""

    def state(self, slot: int) -> NetworkState:
        """Return the state of one network, which the next step may change."""

    def keep(self, slots: Sequence[int]) -> None:
        """Keep only the networks of these slots, and renumber them in this order."""


class SerialEngine:
    """Engine of a single network."""

    def __init__(self, specs: Sequence[TrainSpec]) -> None:
        (spec,) = specs
        keep_freed_memory()
        self.loaders = [_loader(spec)]
        config, state = _with_optimized_model(spec.step), _first_state(spec)
        (loader,) = self.loaders
        in_place = loader.device.type == "cpu" and can_be_copied(config.model)
        self._network: InPlaceNetwork | _Network = (InPlaceNetwork if in_place else _Network)(
            config, state, loader
        )

    def step(self, number: int) -> Tensor:
        """Take one step; return the loss in a tensor of shape [1]."""
        return self._network.step(number).unsqueeze(0)

    def failed_at(self) -> Tensor:
        """Return the step at which the network diverged, or `ALIVE`, in a tensor of shape [1]."""
        return self._network.failed_at().unsqueeze(0)

    def state(self, slot: int) -> NetworkState:
        """Return the network's state."""
        return self._network.state()

    def keep(self, slots: Sequence[int]) -> None:
        """Do nothing: there is only one network."""


class _Network:
    """A network whose step never reads values from its device, or that can't be copied."""

    def __init__(self, config: StepConfig, state: NetworkState, loader: BatchLoader) -> None:
        self._step = make_step(config, by_autograd)
        self._state = state
        self._loader = loader

    def step(self, number: int) -> Tensor:
        """Take one step; return the loss."""
        with self._loader.seeded(number):
            self._state, loss = self._step(self._state, *self._loader.at(number))
        return loss

    def state(self) -> NetworkState:
        """Return the state."""
        return self._state

    def failed_at(self) -> Tensor:
        """Return the step at which the network diverged, or `ALIVE`."""
        failed: Tensor = self._state["failed_at"]
        return failed


class StackedEngine:
    """Engine of a stack of networks of one architecture.

    All tensors of a step keep their places in memory, so that a GPU can repeat it as a CUDA graph
    (`training/cuda_graph.py`). The host then only copies the numbers of the images, the learning
    rates and the dropout masks, and never waits.

    Parameters
    ----------
    specs
        They may differ only in weights, data order, scaling and numeric options of the optimizers.
    conv
        Form of the convolutions (`training/stacked_conv.py`).
    capture
        Captures the step as a graph; None never does. By default a GPU captures, a CPU does not.
    """

    def __init__(
        self,
        specs: Sequence[TrainSpec],
        conv: ConvMethod = "auto",
        capture: Capture | Literal["auto"] | None = "auto",
    ) -> None:
        keep_freed_memory()
        self.loaders = [_loader(spec) for spec in specs]
        first = self.loaders[0]
        self._padding = stack_padding(first.cell, first.batch_size, first.device)
        padded = self._padding.pad(range(len(specs)))
        states = [_first_state(spec) for spec in specs]
        self._state = tree_map(lambda *ts: torch.stack(ts), *[states[slot] for slot in padded])
        self._numbers = varying_numbers([specs[slot].step.optim for slot in padded], first.device)
        config = specs[0].step
        model = with_stacked_convs(config.model, first.device, conv)
        self._step = stacked_step(replace(config, model=model))
        if capture == "auto":
            on_gpu = first.device.type == "cuda"
            capture = partial(capture_cuda, device=first.device) if on_gpu else None
        self._capture = capture
        self._start(padded)

    def _start(self, padded: Sequence[int]) -> None:
        """Prepare steps for a stack of the networks in these slots."""
        self._n_started = len(self.loaders)
        self._places = list(range(self._n_started))  # of the networks in the stack
        self._index: Tensor | None = None  # the places, on the device
        self._batches = StackedBatchLoader([self.loaders[slot] for slot in padded])
        self._inputs: BatchInputs | None = None
        self._losses: Tensor | None = None
        self._run = GraphedFunction(self._advance, self._capture)

    def step(self, number: int) -> Tensor:
        """Take one step; return one loss per network."""
        inputs = self._batches.inputs(number)
        if self._capture is None:
            self._inputs = inputs
        elif self._inputs is None:
            self._inputs = tree_map(torch.clone, inputs)
        else:
            tree_map(lambda old, new: old.copy_(new, non_blocking=True), self._inputs, inputs)
        self._run()
        assert self._losses is not None
        return self._of_networks(self._losses)

    def failed_at(self) -> Tensor:
        """Return for each network the step at which it diverged, or `ALIVE`."""
        failed: Tensor = self._state["failed_at"]
        return self._of_networks(failed)

    def state(self, slot: int) -> NetworkState:
        """Return the state of one network as views of the stack's tensors."""
        place = self._places[slot]
        state: NetworkState = tree_map(lambda tensor: tensor[place], self._state)
        return state

    def keep(self, slots: Sequence[int]) -> None:
        """Keep only the networks of these slots, and renumber them in this order.

        The others stay in a captured stack, without being updated, until half of it has diverged:
        a smaller stack must be captured again.
        """
        self._places = [self._places[slot] for slot in slots]
        self.loaders = [self.loaders[slot] for slot in slots]
        self._index = None
        if self._capture is not None and 2 * len(slots) > self._n_started:
            return
        padded = self._padding.pad(range(len(slots)))
        chosen = torch.tensor([self._places[slot] for slot in padded])
        chosen = to_device(chosen, self.loaders[0].device)
        self._state = tree_map(lambda tensor: tensor[chosen], self._state)
        self._numbers = {name: numbers[chosen] for name, numbers in self._numbers.items()}
        self._start(padded)

    def _advance(self) -> None:
        """Take a step with the current inputs."""
        assert self._inputs is not None
        state, losses = self._step(self._state, *self._batches.batch(self._inputs), self._numbers)
        if self._capture is None:
            self._state, self._losses = state, losses
            return
        if self._losses is None:
            self._losses = torch.empty_like(losses)
        copy_tree(self._state, state)
        self._losses.copy_(losses)

    def _of_networks(self, values: Tensor) -> Tensor:
        """Return the values of the networks that have been kept."""
        n_networks = len(self._places)
        if self._places == list(range(n_networks)):
            return values[:n_networks]
        if self._index is None:
            self._index = to_device(torch.tensor(self._places), values.device)
        return values[self._index]


def stacked_step(config: StepConfig) -> Callable[..., tuple[NetworkState, Tensor]]:
    """Return the step function for tensors with a leading axis of networks.

    Its additional last argument contains the numeric options of the optimizer that differ among the
    networks, by name.
    """
    config = _with_optimized_model(config)

    def one_network(
        state: NetworkState, x: Tensor, y: Tensor, lr: Tensor, masks: Params, numbers: Params
    ) -> tuple[NetworkState, Tensor]:
        optim: Any = config.optim
        own = replace(config, optim=replace(optim, **numbers)) if numbers else config
        return make_step(own, by_torch_func)(state, x, y, lr, masks)

    return vmap(one_network)


def varying_numbers(optims: Sequence[Any], device: torch.device) -> dict[str, Tensor]:
    """Return the numeric options that differ among the optimizers, one tensor per option.

    Examples
    --------
    >>> from experiments.optim import Sgd
    >>> varying_numbers([Sgd(momentum=0.0), Sgd(momentum=0.5)], torch.device("cpu"))
    {'momentum': tensor([0.0000, 0.5000], dtype=torch.float64)}
    """
    numbers: dict[str, Tensor] = {}
    for name in (field.name for field in fields(optims[0])):
        values = [getattr(optim, name) for optim in optims]
        if any(value != values[0] for value in values):
            numbers[name] = torch.tensor(values, dtype=torch.float64, device=device)
    return numbers


def _loader(spec: TrainSpec) -> BatchLoader:
    return BatchLoader(spec.cell, spec.step.model, spec.data, spec.scaling)


def _first_state(spec: TrainSpec) -> NetworkState:
    """Return the resumed state, or the initial state."""
    if spec.resume is None:
        return initial_state(spec.step)
    resumed = spec.resume.copy_to(spec.data.train.x.device)
    resumed.load_buffers(spec.step.model)
    return resumed.state


def _with_optimized_model(config: StepConfig) -> StepConfig:
    return replace(config, model=optimized(config.model))
