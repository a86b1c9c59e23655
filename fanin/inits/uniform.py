"""Uniform weights between two given numbers, whatever the fans."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from pydantic import FiniteFloat
from torch import Tensor

from fanin.inits.weight_shape import Moments, WeightShape


@dataclass(frozen=True)
class Uniform:
    """U(a, b) weights. Mind that U(0, 1) has mean 1/2.

    Raises
    ------
    ValueError
        a >= b.

    Examples
    --------
    >>> Uniform(a=-3.0, b=3.0).moments(WeightShape(10, 20))
    Moments(mean=0.0, var=3.0)
    """

    a: FiniteFloat
    b: FiniteFloat

    def __post_init__(self) -> None:
        if not self.a < self.b:
            raise ValueError(f"a must lie below b, got a={self.a}, b={self.b}")

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=(self.a + self.b) / 2, var=(self.b - self.a) ** 2 / 12)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        u = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
        return self.a + (self.b - self.a) * u
