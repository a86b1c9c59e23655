"""What torch does to a layer that nobody initialized."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from fanin.inits import draw
from fanin.inits.layers import LayerPlace
from fanin.inits.uniform import Uniform
from fanin.inits.weight_shape import Moments, WeightShape


@dataclass(frozen=True)
class PytorchDefault:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases.

    `reset_parameters` of torch's linear and convolution layers calls
    `kaiming_uniform_(weight, a=sqrt(5))`: variance 2 / ((1 + 5) fan_in) = 1 / (3 fan_in), a sixth
    of He's. Biases have the same distribution: they are not 0.

    Examples
    --------
    >>> PytorchDefault().moments(WeightShape(10, 20)).var * 60
    1.0
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=0.0, var=1 / (3 * weight.fan_in))

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return draw.uniform(weight, self.moments(weight), generator)

    def bias(self, weight: WeightShape, layer: LayerPlace) -> Uniform:
        bound = weight.fan_in**-0.5
        return Uniform(-bound, bound)
