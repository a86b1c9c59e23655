"""He's rules: one pass, forward or backward, keeps its second moment through rectifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from pydantic import FiniteFloat
from torch import Tensor

from fanin.inits import draw
from fanin.inits.weight_shape import Moments, WeightShape


@dataclass(frozen=True)
class HeNormal:
    """N(0, 2 / ((1 + negative_slope^2) fan)) weights (He et al. 2015, eq. 10, 14 and 15).

    Parameters
    ----------
    fan
        `fan_in` keeps the forward pass level (eq. 10), `fan_out` the backward pass (eq. 14).
    negative_slope
        The slope of a leaky rectifier below 0 (eq. 15); 0 for ReLU.

    Examples
    --------
    >>> HeNormal().moments(WeightShape(10, 20))
    Moments(mean=0.0, var=0.1)
    """

    fan: Literal["fan_in", "fan_out"] = "fan_in"
    negative_slope: FiniteFloat = 0.0

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=0.0, var=2 / ((1 + self.negative_slope**2) * weight.fan(self.fan)))

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return draw.normal(weight, self.moments(weight), generator)


@dataclass(frozen=True)
class HeUniform:
    """Uniform weights of `HeNormal`'s variance.

    Examples
    --------
    >>> HeUniform(fan="fan_out").moments(WeightShape(10, 20))
    Moments(mean=0.0, var=0.2)
    """

    fan: Literal["fan_in", "fan_out"] = "fan_in"
    negative_slope: FiniteFloat = 0.0

    def moments(self, weight: WeightShape) -> Moments:
        return HeNormal(self.fan, self.negative_slope).moments(weight)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return draw.uniform(weight, self.moments(weight), generator)
