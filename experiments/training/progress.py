"""How far a cell has come: what it needs to go on, in tensors and plain containers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from experiments.training.step import Params, State

Curves = dict[str, list[Any]]


@dataclass(frozen=True)
class Progress:
    """A network in the middle of its training.

    There are no random numbers in it: what is drawn for a step depends on the step's number alone.

    Parameters
    ----------
    step
        Steps taken.
    state
        Parameters, the optimizer's state, and whether it has diverged (`training/step.py`).
    buffers
        What a network of the user's keeps beside its parameters.
    losses
        Of every step taken [step].
    curves
        The points measured on the test set.
    seconds
        Spent on training.
    """

    step: int
    state: State
    buffers: Params
    losses: Tensor
    curves: Curves
    seconds: float

    def copied(self, device: torch.device | str) -> Progress:
        """The same on a device, each tensor laid out as it was, in memory of its own."""
        tensors = (self.state, self.buffers, self.losses)
        state, buffers, losses = tree_map(lambda t: t.detach().to(device, copy=True), tensors)
        return replace(self, state=state, buffers=buffers, losses=losses)

    @torch.no_grad()
    def load_buffers(self, model: nn.Module) -> None:
        """Give a network the buffers that it had."""
        for name, buffer in model.named_buffers():
            buffer.copy_(self.buffers[name])


@dataclass(frozen=True)
class Kept:
    """A cell in the middle: the draws it has measured, and its training, once that has begun.

    Parameters
    ----------
    draws
        By draw, the columns of the tables (`layers`, `histograms`, `tensors`) measured at
        initialization.
    probes
        Those measured in training, each with the columns that say where.
    seconds
        Spent before training.
    progress
        Its training.
    """

    draws: dict[int, dict[str, Any]] = field(default_factory=dict)
    probes: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    seconds: float = 0.0
    progress: Progress | None = None
