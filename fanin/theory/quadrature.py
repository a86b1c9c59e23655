"""Gaussian expectations: nodes, to about 1e-11 and at any scale, and normals for particles.

Gauss-Hermite is not good enough here: at a kink, or where the Gaussian is far wider than the
function's bend, it is off by 1e-7 and more (derivations.md, section 2.2). Composite Gauss-Legendre
is, once the panels end where activations bend.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss
from torch import Tensor

# The Gaussian's own scale, in standard deviations. Beyond 9 lies 2e-19 of the mass.
STANDARD_ENDS = (-9.0, -6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0, 9.0)
# Where activations have kinks (0, 1/2, 1, 3, 6) and over which scales they saturate.
BENDS = (0.0, 0.5, 1.0, 3.0, 6.0, 12.0, 24.0, 48.0)
# Squares of larger pre-activations are inf; the cap keeps inf - inf and 0 * inf out.
CAP = 1e160
EXACT = 12
"""Nodes per panel for a relative error below 1e-10."""
COARSE = 6
"""Nodes per panel for a relative error of about 1e-6, where particles add 1e-3 of their own."""


def gaussian_nodes(
    mean: Float[Tensor, "*state"], var: Float[Tensor, "*state"], order: int = EXACT
) -> tuple[Float[Tensor, "*state node"], Float[Tensor, "*state node"]]:
    """Nodes y and weights such that `(weight * f(y)).sum(-1)` is E[f(y)], y ~ N(mean, var).

    Parameters
    ----------
    mean, var
        Of each Gaussian, float64. A variance of 0 is a point mass, treated exactly; inf is
        capped so that a saturating f still has the right limit.
    order
        Nodes per panel.

    Returns
    -------
    tuple
        Nodes, and positive weights that sum to 1.

    Examples
    --------
    >>> y, weight = gaussian_nodes(torch.zeros(()).double(), torch.tensor(4.0).double())
    >>> round(float((weight * torch.relu(y) ** 2).sum()), 12)
    2.0
    """
    mean = mean.clamp(-CAP, CAP)[..., None]
    scale = var.sqrt().clamp(max=CAP)[..., None]
    ends = _panel_ends(mean, scale)
    half = (ends[..., 1:] - ends[..., :-1]) / 2
    centre = (ends[..., 1:] + ends[..., :-1]) / 2
    # Most bends of most states fall outside; panels empty in all states are not worth a node.
    used = (half > 0).reshape(-1, half.shape[-1]).any(0)
    half, centre = half[..., used], centre[..., used]
    node, node_weight = _legendre(order)
    z = (centre[..., None] + half[..., None] * node).flatten(-2)
    weight = (half[..., None] * node_weight).flatten(-2) * torch.exp(-z.square() / 2)
    weight = weight / weight.sum(-1, keepdim=True)
    # Nodes of empty panels must not meet an overflow as 0 * inf.
    return mean + scale * z, weight.clamp(min=1e-300)


def max_nodes(order: int) -> int:
    """Nodes that one state takes at most, for callers that mind memory."""
    return order * (len(STANDARD_ENDS) + 2 * len(BENDS) - 2)


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


def _panel_ends(mean: Tensor, scale: Tensor) -> Tensor:
    bends = torch.tensor([*(-y for y in BENDS[:0:-1]), *BENDS], dtype=torch.float64)
    standard = torch.tensor(STANDARD_ENDS, dtype=torch.float64)
    width = torch.where(scale > 0, scale, 1.0)
    at_bends = ((bends - mean) / width).clamp(STANDARD_ENDS[0], STANDARD_ENDS[-1])
    ends = torch.cat([standard.expand(*mean.shape[:-1], -1), at_bends], -1)
    return ends.sort(-1).values


@cache
def _legendre(order: int) -> tuple[Tensor, Tensor]:
    node, weight = leggauss(order)
    return torch.from_numpy(node), torch.from_numpy(weight)
