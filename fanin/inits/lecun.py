"""LeCun's rule: a linear layer keeps the second moment of its input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from fanin.inits import draw
from fanin.inits.weight_shape import Moments, WeightShape


@dataclass(frozen=True)
class LecunNormal:
    """N(0, 1 / fan_in) weights (LeCun et al. 1998, "Efficient BackProp", section 4.6).

    Not truncated, unlike the scheme of that name in TensorFlow and JAX.

    Examples
    --------
    >>> LecunNormal().moments(WeightShape(10, 20))
    Moments(mean=0.0, var=0.05)
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=0.0, var=1 / weight.fan_in)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return draw.normal(weight, self.moments(weight), generator)


@dataclass(frozen=True)
class LecunUniform:
    """Uniform weights of variance 1 / fan_in.

    Examples
    --------
    >>> LecunUniform().moments(WeightShape(10, 20))
    Moments(mean=0.0, var=0.05)
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=0.0, var=1 / weight.fan_in)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return draw.uniform(weight, self.moments(weight), generator)
