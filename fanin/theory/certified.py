"""The init option `certified`: He's weights with gains that theory prescribes for the data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Float64
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from fanin.inits import HeNormal, WeightShape, weight_layers
from fanin.theory.certificate.networks import on_cpu
from fanin.theory.certificate.weights import estimated_moments
from fanin.theory.gains import Direction, level_gains
from fanin.theory.moments import LayerMoments


@dataclass(frozen=True)
class Certified:
    """He's weights, times gains that level this network's second moments on its own images.

    `calibrate` looks at the images, never at what a draw makes of them: the gains are theory's, the
    same for every draw, and found once. Which they are depends on the images, so `moments` are
    unknown. All layers are taken to be drawn like this one, with the biases that they have.

    Parameters
    ----------
    target
        E[y^2] of every layer's pre-activations.
    direction
        `forward` levels E[y^2], `backward` the cotangent's, `both` takes the geometric mean.
    images
        How many of the calibration images theory is asked about, the first ones.
    """

    target: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    direction: Direction = "forward"
    images: PositiveInt = 8

    def moments(self, weight: WeightShape) -> None:
        return None

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return HeNormal().sample(weight, generator)

    @torch.no_grad()
    def calibrate(
        self,
        model: nn.Module,
        images: Float[Tensor, "image channel height width"],
        layers: Collection[str],
    ) -> None:
        """Multiply the weights of the layers of those names by their gains, in place."""
        modules = weight_layers(model)
        moments = {
            name: LayerMoments(
                HeNormal().moments(WeightShape.of(module)), estimated_moments(module.bias)
            )
            for name, module in modules.items()
        }
        fed = images[: self.images].to("cpu", torch.float64)
        gains = level_gains(on_cpu(model), moments, fed, self.target, self.direction)
        for name in layers:
            modules[name].weight.mul_(gains[name])
