"""E[f(u) f(v)] for every pair of a covariance matrix, for any elementwise f.

Mehler's expansion is diagonal in the correlation, sum_k a_k(q_u) a_k(q_v) c^k with normalized
Hermite coefficients a_k (Daniely et al. 2016, section 4), but slow where |c| nears 1. As a function
of the angle arccos(c) the same kernel is analytic up to and including both ends, even for a
kinked f: the arc-cosine kernels (Cho & Saul 2009) show it. So the expansion is summed, far, at a
few angles and a few variances only, and a Chebyshev series in the angle goes to each pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss
from torch import Tensor

Function = Callable[[Tensor], Tensor]

ANGLES = 80
"""Chebyshev intervals over [0, pi], before the series is cut where it is negligible."""
TERMS, MANY_TERMS = 600, 2400
"""Of Mehler's expansion; the many for wide variances and for bends away from 0. What lies beyond
is known in sum, and spread over the correlations as the function's own break would."""
MANY_FROM = 4.0  # standard deviation
NEGLIGIBLE = 1e-12
# Below and above, a function is a straight line from 0, to more digits than anyone reads.
SMALLEST_SD, LARGEST_SD = 1e-9, 1e9
DISTINCT = 24  # so many variances are taken as they are; more are interpolated
DIGITS = 1e-11  # aimed at by that interpolation
WORK = 2**16  # pairs at once: their arrays stay in cache
Z_MAX, PANEL, PANEL_NODES = 9.0, 0.5, 16  # the z grid; resolves the last Hermite function


@dataclass(frozen=True)
class Rough:
    """Features of a function that slow its expansion down.

    Attributes
    ----------
    jumps
        Whether it jumps, at 0 or, if it has `bends`, there.
    bends
        Where it breaks away from 0: bends or jumps.
    """

    jumps: bool = False
    bends: tuple[float, ...] = ()


def pair_products(
    function: Function,
    rough: Rough,
    cov: Float[Tensor, "batch n m"],
    var_rows: Float[Tensor, "batch n"],
    var_cols: Float[Tensor, "batch m"],
) -> Float[Tensor, "batch n m"]:
    """E[f(u) f(v)] / sqrt(E[f(u)^2] E[f(v)^2]) for Gaussian pairs of mean 0.

    Parameters
    ----------
    function
        Elementwise, float64.
    rough
        Its breaks; wrong ones cost accuracy near correlations of 1, no more.
    cov
        Covariance of every pair.
    var_rows, var_cols
        Variances; rows with 0 give values without meaning.

    Returns
    -------
    Tensor
        Zero where f vanishes on either side.

    Examples
    --------
    >>> one = torch.ones(1, 1).double()
    >>> half = torch.full((1, 1, 1), 0.5).double()
    >>> c = pair_products(torch.erf, Rough(), half, one, one)
    >>> bool(abs(c - math.asin(1 / 3) / math.asin(2 / 3)) < 1e-10)
    True
    """
    sd_rows, sd_cols = _live_sd(var_rows), _live_sd(var_cols)
    grid = _grid(torch.cat([sd_rows.flatten(), sd_cols.flatten()]))
    table = _series(function, rough, grid.sd)
    rows, cols = grid.weights(sd_rows), grid.weights(sd_cols)
    products = torch.empty_like(cov)
    step = max(1, WORK // max(1, cov.shape[-1]))
    for item in range(len(cov)):
        for first in range(0, cov.shape[1], step):
            part = slice(first, first + step)
            c = (cov[item, part] / sd_rows[item, part, None]) / sd_cols[item]
            products[item, part] = _summed(table, c, rows[item, part], cols[item].T.contiguous())
    return products


def _live_sd(var: Tensor) -> Tensor:
    return torch.where(var > 0, var, 1.0).sqrt()


def _summed(table: Tensor, c: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    x = torch.arccos(c.clamp(-1, 1)).mul_(2 / math.pi).sub_(1)
    at_rows = torch.matmul(rows, table)  # [term, row, sd]
    before, now, twice = torch.ones_like(x), x, 2 * x
    total = at_rows[0] @ cols
    for term in at_rows[1:]:
        total.addcmul_(term @ cols, now)
        before, now = now, torch.addcmul(-before, twice, now)
    return total


@dataclass(frozen=True)
class _Grid:
    """Standard deviations at which the expansion is summed, and how others lie between them."""

    sd: Float[Tensor, " sd"]
    interpolated: bool

    def weights(self, sd: Float[Tensor, "*row"]) -> Float[Tensor, "*row sd"]:
        sd = sd.clamp(SMALLEST_SD, LARGEST_SD)
        if not self.interpolated:
            return (sd[..., None] == self.sd).double()
        # Barycentric, at Chebyshev points of the second kind (Berrut & Trefethen 2004, eq. 5.4).
        signs = (-1.0) ** torch.arange(len(self.sd), dtype=torch.float64)
        signs[0], signs[-1] = signs[0] / 2, signs[-1] / 2
        gap = sd.log()[..., None] - self.sd.log()
        at_node = gap.abs() < 1e-14
        share = torch.where(at_node.any(-1, keepdim=True), at_node.double(), signs / gap)
        return share / share.sum(-1, keepdim=True)


def _grid(sd: Tensor) -> _Grid:
    distinct = sd.clamp(SMALLEST_SD, LARGEST_SD).unique()
    if len(distinct) <= DISTINCT:
        return _Grid(distinct, interpolated=False)
    low, high = distinct[0].log(), distinct[-1].log()
    # Kernels are analytic in log sd over a strip of half-width pi / 2 and more.
    gain = math.asinh(math.pi / (float(high - low) + 1e-9))
    nodes = min(len(distinct), 3 + math.ceil(math.log(1 / DIGITS) / gain))
    if nodes == len(distinct):
        return _Grid(distinct, interpolated=False)
    x = torch.cos(math.pi * torch.arange(nodes, dtype=torch.float64) / (nodes - 1))
    return _Grid(((low + high) / 2 + (high - low) / 2 * x).exp(), interpolated=True)


def _series(
    function: Function, rough: Rough, sd: Float[Tensor, " sd"]
) -> Float[Tensor, "term sd sd"]:
    angle = math.pi * torch.arange(ANGLES + 1, dtype=torch.float64) / ANGLES
    # Lobatto points: x = cos(angle) over [-1, 1] stands for theta = (1 + x) pi / 2.
    kernel = _kernel(function, rough, sd, torch.cos((1 + torch.cos(angle)) * math.pi / 2))
    halves = torch.ones_like(angle)
    halves[0] = halves[-1] = 0.5
    order = torch.arange(ANGLES + 1, dtype=torch.float64)
    transform = torch.cos(order[:, None] * angle) * halves * halves[:, None] * (2 / ANGLES)
    series = torch.einsum("ta,aij->tij", transform, kernel)
    counts = (series.abs().amax((1, 2)) > NEGLIGIBLE).nonzero()
    return series[: max(2, int(counts[-1]) + 1) if len(counts) else 2]


def _kernel(
    function: Function,
    rough: Rough,
    sd: Float[Tensor, " sd"],
    c: Float[Tensor, " angle"],
) -> Float[Tensor, "angle sd sd"]:
    terms = MANY_TERMS if rough.bends or rough.jumps or float(sd.max()) > MANY_FROM else TERMS
    z, weight = _z_grid(sd, rough.bends)
    value = function((sd[:, None] * z).contiguous())
    size = value.abs().amax(1, keepdim=True)
    value = value / torch.where(size > 0, size, 1.0)
    norm = (value.square() @ weight).sqrt()[:, None]
    value = value / torch.where(norm > 0, norm, 1.0)
    weighted = value * weight
    a = weighted @ _hermite(z, terms).T  # [sd, term]
    powers = c[:, None] ** torch.arange(terms, dtype=torch.float64)
    kernel = torch.matmul(a * powers[:, None, :], a.T)
    alternating = (-1.0) ** torch.arange(terms, dtype=torch.float64)
    # The z grid is symmetric: flipped, it is -z.
    beyond_at_1 = weighted @ value.T - a @ a.T
    beyond_at_minus_1 = weighted @ value.flip(1).T - (a * alternating) @ a.T
    even, odd = (beyond_at_1 + beyond_at_minus_1) / 2, (beyond_at_1 - beyond_at_minus_1) / 2
    even_shape, odd_shape = _beyond(c, powers, rough)
    return kernel + even_shape[:, None, None] * even + odd_shape[:, None, None] * odd


def _beyond(c: Tensor, powers: Tensor, rough: Rough) -> tuple[Tensor, Tensor]:
    """Dependence on c of what lies beyond an expansion's terms, for even and odd; 1 at c = 1.

    As for sign(u), |u| or u|u|, whose kernels are known in full: their coefficients decay as
    those of a jump, a bend, a break of the second derivative.
    """
    signs = _sign_squares(powers.shape[1])
    k = torch.arange(len(signs), dtype=torch.float64).clamp(min=1)
    # d/dc of f's kernel is that of f'.
    bends = torch.cat([torch.full((1,), 2 / math.pi, dtype=torch.float64), signs[:-1]]) / k
    parabolas = 4 * torch.cat([torch.zeros(1, dtype=torch.float64), bends[:-1]]) / k
    if rough.bends and rough.jumps:
        odd = _shape(_sign_kernel, signs, c, powers)
        return c * odd, odd
    even = _shape(_abs_kernel, bends, c, powers)
    if rough.bends:
        return even, c * even
    if rough.jumps:
        return even, _shape(_sign_kernel, signs, c, powers)
    return even, _shape(_parabola_kernel, parabolas, c, powers)


def _shape(full: Function, squares: Tensor, c: Tensor, powers: Tensor) -> Tensor:
    at_1 = full(torch.ones(1, dtype=torch.float64)) - squares.sum()
    return (full(c) - powers @ squares) / at_1


def _sign_kernel(c: Tensor) -> Tensor:
    return (2 / math.pi) * torch.arcsin(c)


def _abs_kernel(c: Tensor) -> Tensor:
    return (2 / math.pi) * ((1 - c.square()).clamp(min=0).sqrt() + c * torch.arcsin(c))


def _parabola_kernel(c: Tensor) -> Tensor:
    sine = (1 - c.square()).clamp(min=0).sqrt()
    return (2 / math.pi) * ((1 + 2 * c.square()) * torch.arcsin(c) + 3 * c * sine)


def _sign_squares(terms: int) -> Tensor:
    """Squared coefficients of sign(u): the arcsine's Taylor series, times 2 / pi."""
    squares = torch.zeros(terms, dtype=torch.float64)
    term = 2 / math.pi
    for k in range(1, terms, 2):
        squares[k] = term / k
        term *= k / (k + 1)
    return squares


def _hermite(z: Float[Tensor, " node"], terms: int) -> Float[Tensor, "term node"]:
    """Normalized probabilists' Hermite polynomials."""
    rows = torch.empty(terms, len(z), dtype=torch.float64)
    rows[0], rows[1] = 1.0, z
    for k in range(1, terms - 1):
        rows[k + 1] = (z * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1)
    return rows


def _z_grid(sd: Tensor, bends: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """A standard normal's nodes and weights, symmetric, denser towards 0 and split at bends."""
    panels = torch.arange(0.0, Z_MAX + PANEL / 2, PANEL, dtype=torch.float64)
    halvings = max(0, math.ceil(math.log2(4 * PANEL * float(sd.max()))))
    closer = PANEL * 0.5 ** torch.arange(1, halvings + 1, dtype=torch.float64)
    at = torch.tensor([abs(b) for b in bends], dtype=torch.float64)
    at_bends = (at[:, None] / sd).flatten()
    ends = torch.cat([panels, closer, at_bends[at_bends < Z_MAX]]).unique()
    node, node_weight = (torch.from_numpy(x) for x in leggauss(PANEL_NODES))
    half, centre = (ends[1:] - ends[:-1]) / 2, (ends[1:] + ends[:-1]) / 2
    z = (centre[:, None] + half[:, None] * node).flatten()
    weight = (half[:, None] * node_weight).flatten() * torch.exp(-z.square() / 2)
    weight = weight / (2 * weight.sum())
    return torch.cat([-z.flip(0), z]), torch.cat([weight.flip(0), weight])
