"""One declared step (`training/step.py`), run in two ways: for a network alone, and for a stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from experiments.training.pools_first import pools_first
from experiments.training.step import (
    Params,
    State,
    Step,
    Task,
    by_autograd,
    by_transform,
    make_step,
)


def serial_step(task: Task) -> Step:
    """The step of a network alone."""
    return make_step(_quicker(task), by_autograd)


def stacked_step(task: Task) -> Callable[..., tuple[State, Tensor]]:
    """The step for tensors with a leading axis of networks.

    It takes one argument more: the optimizer's numbers that differ among the networks, by name.
    """
    task = _quicker(task)

    def lane(
        state: State, x: Tensor, y: Tensor, lr: Tensor, masks: Params, numbers: Params
    ) -> tuple[State, Tensor]:
        optim: Any = task.optim
        own = replace(task, optim=replace(optim, **numbers)) if numbers else task
        return make_step(own, by_transform)(state, x, y, lr, masks)

    return vmap(lane)


def varying_numbers(optims: Sequence[Any], device: torch.device) -> dict[str, Tensor]:
    """The optimizers' numbers that differ among them, as tensors [network].

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


def _quicker(task: Task) -> Task:
    return replace(task, model=pools_first(task.model))
