"""Glorot's compromise between the forward and the backward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from fanin.inits import draw
from fanin.inits.weight_shape import Moments, WeightShape


@dataclass(frozen=True)
class XavierNormal:
    """N(0, 2 / (fan_in + fan_out)) weights (Glorot & Bengio 2010, eq. 12).

    Examples
    --------
    >>> XavierNormal().moments(WeightShape(10, 30))
    Moments(mean=0.0, var=0.05)
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=0.0, var=1 / weight.fan("fan_avg"))

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return draw.normal(weight, self.moments(weight), generator)


@dataclass(frozen=True)
class XavierUniform:
    """Uniform weights of variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010, eq. 16).

    Examples
    --------
    >>> XavierUniform().moments(WeightShape(10, 30))
    Moments(mean=0.0, var=0.05)
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=0.0, var=1 / weight.fan("fan_avg"))

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return draw.uniform(weight, self.moments(weight), generator)
