"""The init of the net that started it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from fanin.inits import draw
from fanin.inits.constant import Constant
from fanin.inits.layers import LayerPlace
from fanin.inits.weight_shape import Moments, WeightShape

CONVS_WITH_UNIT_BIAS = ("conv2", "conv4", "conv5")


@dataclass(frozen=True)
class Alexnet2012:
    """N(0, 0.01^2) weights, some biases 1 (Krizhevsky et al. 2012, section 5).

    Biases are 1 in the convolutions conv2, conv4 and conv5 and in every fully connected layer but
    the output layer ("this initialization accelerates the early stages of learning by providing
    the ReLUs with positive inputs"), and 0 elsewhere. The same rule holds for other nets: by name
    for convolutions, by place for fully connected layers.

    Examples
    --------
    >>> fully_connected = WeightShape(10, 20)
    >>> Alexnet2012().bias(fully_connected, LayerPlace("fc2"))
    Constant(value=1.0)
    >>> Alexnet2012().bias(fully_connected, LayerPlace("fc3", is_output=True))
    Constant(value=0.0)
    """

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=0.0, var=0.01**2)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return draw.normal(weight, self.moments(weight), generator)

    def bias(self, weight: WeightShape, layer: LayerPlace) -> Constant:
        if weight.kernel:
            return Constant(1.0 if layer.name in CONVS_WITH_UNIT_BIAS else 0.0)
        return Constant(0.0 if layer.is_output else 1.0)
