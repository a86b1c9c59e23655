"""Definition of a setup: all that a user passes to a training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

Cause = Literal[
    "nonfinite_input",
    "outlying_input",
    "input_scale",
    "nonfinite_weight",
    "overflow",
    "dead_units",
    "double_softmax",
    "log_of_zero",
    "loss_mismatch",
    "learning_rate",
    "exploding_gradients",
    "vanishing_gradients",
    "init",
    "identical_units",
    "batchnorm_batch_of_one",
]
Batch = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


@dataclass(frozen=True)
class Setup:
    """A model in training mode, one batch, and its loss and optimizer.

    `cause` is None if the setup is healthy. `later_batches` are further batches of the user's
    loader, for faults that training on one batch hides.
    """

    model: nn.Module
    batch: Batch
    targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    later_batches: tuple[tuple[Batch, Tensor], ...] = ()
    name: str = ""
    cause: Cause | None = None


class Faulty(Protocol):
    """Function that builds a faulty setup, or the same setup without the fault."""

    __name__: str

    def __call__(self, fixed: bool = False) -> Setup:
        """Build the setup."""
        ...


def faulty(cause: Cause) -> Callable[[Callable[[bool], Setup]], Faulty]:
    """Seed a function that builds a setup, and add the setup's name and cause."""

    def decorate(build: Callable[[bool], Setup]) -> Any:
        @wraps(build)
        def seeded(fixed: bool = False) -> Setup:
            torch.manual_seed(0)
            setup = build(fixed)
            if fixed:
                return replace(setup, name=f"{build.__name__}_fixed")
            return replace(setup, name=build.__name__, cause=cause)

        return seeded

    return decorate


def healthy(build: Callable[[], Setup]) -> Callable[[], Setup]:
    """Seed a function that builds a healthy setup, and add the setup's name."""

    @wraps(build)
    def seeded() -> Setup:
        torch.manual_seed(0)
        return replace(build(), name=build.__name__)

    return seeded


def predict(model: nn.Module, batch: Batch) -> Tensor:
    """Call the model as its signature demands: with a tensor, a tuple's parts or a dict's items."""
    if isinstance(batch, dict):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def train(setup: Setup, steps: int) -> Iterator[float]:
    """Train for some steps, over all batches in turn, and yield the loss before each step."""
    batches = [(setup.batch, setup.targets), *setup.later_batches]
    for step in range(steps):
        batch, targets = batches[step % len(batches)]
        setup.optimizer.zero_grad()
        loss = setup.loss(predict(setup.model, batch), targets)
        loss.backward()
        setup.optimizer.step()
        yield loss.item()
