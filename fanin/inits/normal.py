"""Gaussian weights of a given standard deviation, whatever the fans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float64
from pydantic import Field, FiniteFloat
from torch import Tensor

from fanin.inits import draw
from fanin.inits.weight_shape import Moments, WeightShape


@dataclass(frozen=True)
class Normal:
    """N(mean, std^2) weights.

    Examples
    --------
    >>> Normal(std=0.5).moments(WeightShape(10, 20))
    Moments(mean=0.0, var=0.25)
    """

    std: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    mean: FiniteFloat = 0.0

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=self.mean, var=self.std**2)

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        return draw.normal(weight, self.moments(weight), generator)
