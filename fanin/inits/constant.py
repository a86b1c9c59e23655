"""All entries alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from pydantic import FiniteFloat
from torch import Tensor

from fanin.inits.weight_shape import Moments, WeightShape


@dataclass(frozen=True)
class Constant:
    """Every weight is `value`: all units of a layer are copies of each other, and stay so.

    Examples
    --------
    >>> Constant(0.5).sample(WeightShape(1, 2), torch.Generator())
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """

    value: FiniteFloat

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=self.value, var=0.0)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return torch.full(weight.shape, self.value, dtype=torch.float64)


@dataclass(frozen=True)
class Zeros:
    """Every weight is 0: with zero biases the logits are 0 and all gradients but theirs vanish.

    Examples
    --------
    >>> Zeros().moments(WeightShape(1, 2))
    Moments(mean=0.0, var=0.0)
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=0.0, var=0.0)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return torch.zeros(weight.shape, dtype=torch.float64)
