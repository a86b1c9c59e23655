"""Independent entries with the mean and variance that a scheme declares.

Draws are float64 on the CPU, whatever the model's dtype and device: so one seed means one set of
weights, rounded to float32 or bfloat16 afterwards.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from fanin.inits.weight_shape import Moments, WeightShape


def normal(
    weight: WeightShape, moments: Moments, generator: torch.Generator
) -> Float64[Tensor, "out in *kernel"]:
    """Gaussian entries with those moments."""
    z = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return moments.mean + moments.var**0.5 * z


def uniform(
    weight: WeightShape, moments: Moments, generator: torch.Generator
) -> Float64[Tensor, "out in *kernel"]:
    """Uniform entries with those moments: within sqrt(3 var) of the mean."""
    u = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
    return moments.mean + (3 * moments.var) ** 0.5 * (2 * u - 1)
