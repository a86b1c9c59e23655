"""Quadrature nodes for Gaussian expectations, and stratified normal samples.

The nodes are accurate to about 1e-11 at any scale. They are composite Gauss-Legendre nodes with
panel ends at the kinks of common activations. Gauss-Hermite quadrature has errors of 1e-7 and more
at kinks and for wide Gaussians (derivations.md, section 2.2).
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss
from torch import Tensor

# Panel ends in standard deviations. The probability beyond 9 is 2e-19.
STANDARD_ENDS = (-9.0, -6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0, 9.0)
# Panel ends in units of y: kinks of activations (0, 1/2, 1, 3, 6), and scales of saturation.
BREAKPOINTS = (0.0, 0.5, 1.0, 3.0, 6.0, 12.0, 24.0, 48.0)
# Squares of larger values overflow; clamping avoids inf - inf and 0 * inf.
MAX_ABS = 1e160
EXACT = 12
"""Nodes per panel for a relative error below 1e-10."""
COARSE = 6
"""Nodes per panel for a relative error of about 1e-6. Averages over particles have about 1e-3."""


def gaussian_nodes(
    mean: Float[Tensor, "*state"], var: Float[Tensor, "*state"], order: int = EXACT
) -> tuple[Float[Tensor, "*state node"], Float[Tensor, "*state node"]]:
    """Return nodes y and weights with `(weight * f(y)).sum(-1)` = E[f(y)] for y ~ N(mean, var).

    Parameters
    ----------
    mean, var
        Mean and variance of each Gaussian, float64. A variance of 0 is treated exactly, as a point
        mass. Infinite values are clamped, so that saturating functions have the correct limit.
    order
        Nodes per panel.

    Returns
    -------
    tuple of Tensor
        Nodes, and positive weights that sum to 1.

    Examples
    --------
    >>> y, weight = gaussian_nodes(torch.zeros(()).double(), torch.tensor(4.0).double())
    >>> round(float((weight * torch.relu(y) ** 2).sum()), 12)
    2.0
    """
    mean = mean.clamp(-MAX_ABS, MAX_ABS)[..., None]
    scale = var.sqrt().clamp(max=MAX_ABS)[..., None]
    ends = _panel_ends(mean, scale)
    half = (ends[..., 1:] - ends[..., :-1]) / 2
    centre = (ends[..., 1:] + ends[..., :-1]) / 2
    # Most breakpoints lie outside the Gaussian; drop panels that are empty in all states.
    used = (half > 0).reshape(-1, half.shape[-1]).any(0)
    half, centre = half[..., used], centre[..., used]
    node, node_weight = _legendre(order)
    z = (centre[..., None] + half[..., None] * node).flatten(-2)
    weight = (half[..., None] * node_weight).flatten(-2) * torch.exp(-z.square() / 2)
    weight = weight / weight.sum(-1, keepdim=True)
    # Positive weights, because nodes of empty panels would give 0 * inf on overflow.
    return mean + scale * z, weight.clamp(min=1e-300)


def max_nodes(order: int) -> int:
    """Return the largest number of nodes that `gaussian_nodes` uses for one Gaussian."""
    return order * (len(STANDARD_ENDS) + 2 * len(BREAKPOINTS) - 2)


def stratified_normals(
    shape: tuple[int, ...], generator: torch.Generator
) -> Float[Tensor, "... particle"]:
    """Sample standard normals, antithetic and stratified along the last axis, in random order.

    The K values along the last axis contain one value from each of K/2 slices of equal probability,
    and its negative. Their mean is 0 and their variance close to 1, so averages over them vary much
    less than averages over independent samples. Different sets of K values are independent.

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
        raise ValueError(f"particles={particles}: must be even, because they are drawn in pairs")
    half = particles // 2
    offset = torch.rand((*sets, half), generator=generator, dtype=torch.float64)
    uniform = (torch.arange(half, dtype=torch.float64) + offset) / half
    # rand may return 0, whose quantile is -inf.
    normals = torch.special.ndtri(uniform.clamp(min=2**-60))
    pairs = torch.cat([normals, -normals], -1)
    order = torch.rand(shape, generator=generator).argsort(-1)
    return pairs.gather(-1, order)


def _panel_ends(mean: Tensor, scale: Tensor) -> Tensor:
    breakpoints = torch.tensor(
        [*(-y for y in BREAKPOINTS[:0:-1]), *BREAKPOINTS], dtype=torch.float64
    )
    standard = torch.tensor(STANDARD_ENDS, dtype=torch.float64)
    width = torch.where(scale > 0, scale, 1.0)
    at_breakpoints = ((breakpoints - mean) / width).clamp(STANDARD_ENDS[0], STANDARD_ENDS[-1])
    ends = torch.cat([standard.expand(*mean.shape[:-1], -1), at_breakpoints], -1)
    return ends.sort(-1).values


@cache
def _legendre(order: int) -> tuple[Tensor, Tensor]:
    node, weight = leggauss(order)
    return torch.from_numpy(node), torch.from_numpy(weight)
