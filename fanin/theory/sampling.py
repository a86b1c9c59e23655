"""Normal numbers for particles, spread evenly."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def stratified_normals(
    shape: tuple[int, ...], generator: torch.Generator
) -> Float[Tensor, "... particle"]:
    """Standard normals, antithetic and stratified along the last axis, in random order.

    Each set of particles holds one number from each of K/2 slices of equal probability, and its
    negative: the set's mean is 0 and its variance close to 1, so that averages over particles
    scatter far less than those of independent numbers. Sets are independent of each other.

    Examples
    --------
    >>> xi = stratified_normals((3, 64), torch.Generator().manual_seed(0))
    >>> xi.sum(-1).abs().max().item() < 1e-12
    True
    """
    *sets, particles = shape
    if particles == 1:
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    if particles % 2:
        raise ValueError(f"particles={particles}: must be even, so that they come in pairs")
    half = particles // 2
    offset = torch.rand((*sets, half), generator=generator, dtype=torch.float64)
    uniform = (torch.arange(half, dtype=torch.float64) + offset) / half
    # rand may give 0, whose quantile is -inf.
    normals = torch.special.ndtri(uniform.clamp(min=2**-60))
    pairs = torch.cat([normals, -normals], -1)
    order = torch.rand(shape, generator=generator).argsort(-1)
    return pairs.gather(-1, order)
