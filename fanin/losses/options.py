"""The two options of the config, `head` and `loss`, and what each head applies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

HeadName = Literal["none", "sigmoid", "softmax", "tanh"]
LossName = Literal["cross_entropy", "mse", "bce"]
Form = Literal["stable", "naive", "twice"]


def identity(logits: Float[Tensor, "batch output"]) -> Tensor:
    """Leave the logits as they are."""
    return logits


def softmax(logits: Float[Tensor, "batch output"]) -> Tensor:
    """Probabilities that sum to 1 over the outputs."""
    return torch.softmax(logits, dim=-1)


HEADS: dict[HeadName, Callable[[Tensor], Tensor]] = {
    "none": identity,
    "sigmoid": torch.sigmoid,
    "softmax": softmax,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class Head:
    """The activation after the last layer, which makes a network's output out of its logits."""

    name: HeadName

    def __call__(self, logits: Float[Tensor, "batch output"]) -> Float[Tensor, "batch output"]:
        """Return the output.

        Examples
        --------
        >>> Head("softmax")(torch.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.5000]])
        """
        return HEADS[self.name](logits)


@dataclass(frozen=True)
class Loss:
    """What training minimizes.

    Parameters
    ----------
    name
        Which loss.
    form
        How it is computed: `stable`, as a library does; `naive`, the formula of the textbook
        taken literally; `twice`, softmax in the network and once more in the loss.
    """

    name: LossName
    form: Form = "stable"
