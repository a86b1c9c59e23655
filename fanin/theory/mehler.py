"""E[f(u) f(v)] for every pair of a covariance matrix and any elementwise function f.

Mehler's expansion is sum_k a_k(q_u) a_k(q_v) c^k with normalized Hermite coefficients a_k and
correlation c (Daniely et al. 2016, section 4). It converges slowly if |c| is close to 1. As a
function of the angle arccos(c), however, the kernel is analytic including both end points, even
for functions with kinks (compare the arc-cosine kernels of Cho & Saul 2009). So this module sums
many terms of the expansion at a few angles and variances only, and evaluates a Chebyshev series in
the angle for each pair.
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
"""Chebyshev intervals over [0, pi], before negligible terms of the series are dropped."""
TERMS, MANY_TERMS = 600, 2400
"""Terms of Mehler's expansion. `MANY_TERMS` is for large variances and breakpoints away from 0. The
sum of the remaining terms is known; its dependence on the correlation is that of a jump or kink."""
MANY_TERMS_SD = 4.0  # standard deviation from which `MANY_TERMS` is used
NEGLIGIBLE = 1e-12
# At standard deviations outside this range, functions count as linear on either side of 0: the
# difference is below double precision.
SMALLEST_SD, LARGEST_SD = 1e-9, 1e9
MAX_EXACT_VARIANCES = 24  # more distinct variances than this are interpolated
INTERPOLATION_ERROR = 1e-11
PAIRS_AT_ONCE = 2**16  # the arrays of this many pairs fit the CPU cache
SYMMETRY_ERROR = 1e-12  # of a covariance matrix, relative to its largest element
Z_MAX, PANEL, PANEL_NODES = 9.0, 0.5, 16  # the z grid; resolves the highest Hermite function


@dataclass(frozen=True)
class Breakpoints:
    """Jumps and kinks of a function, which slow down the convergence of its expansion.

    Attributes
    ----------
    jumps
        True if the function jumps at `locations` (at 0 if there are none), False if it only has
        kinks.
    locations
        Positions of jumps and kinks other than 0.
    """

    jumps: bool = False
    locations: tuple[float, ...] = ()


def pair_products(
    function: Function,
    breakpoints: Breakpoints,
    cov: Float[Tensor, "batch n m"],
    var_rows: Float[Tensor, "batch n"],
    var_cols: Float[Tensor, "batch m"],
) -> Float[Tensor, "batch n m"]:
    """Return E[f(u) f(v)] / sqrt(E[f(u)^2] E[f(v)^2]) for zero-mean Gaussian pairs.

    Parameters
    ----------
    function
        Elementwise function f, float64.
    breakpoints
        Breakpoints of f. Wrong ones only reduce the accuracy at correlations close to 1.
    cov
        Covariance of every pair.
    var_rows, var_cols
        Variances. Results for a variance of 0 are meaningless.

    Returns
    -------
    Tensor
        Normalized products; 0 if E[f(u)^2] or E[f(v)^2] is 0.

    Examples
    --------
    >>> one = torch.ones(1, 1).double()
    >>> half = torch.full((1, 1, 1), 0.5).double()
    >>> c = pair_products(torch.erf, Breakpoints(), half, one, one)
    >>> bool(abs(c - math.asin(1 / 3) / math.asin(2 / 3)) < 1e-10)
    True
    """
    sd_rows, sd_cols = _positive_sd(var_rows), _positive_sd(var_cols)
    grid = _grid(torch.cat([sd_rows.flatten(), sd_cols.flatten()]))
    table = _series(function, breakpoints, grid.sd)
    rows, cols = grid.weights(sd_rows), grid.weights(sd_cols)
    products = torch.empty_like(cov)
    step = max(1, PAIRS_AT_ONCE // max(1, cov.shape[-1]))
    symmetric = _is_symmetric(cov, sd_rows, sd_cols)
    for item in range(len(cov)):
        for first in range(0, cov.shape[1], step):
            part = slice(first, first + step)
            others = slice(first if symmetric else 0, None)
            c = (cov[item, part, others] / sd_rows[item, part, None]) / sd_cols[item, others]
            values = _evaluate_series(table, c, rows[item, part], cols[item, others].T.contiguous())
            products[item, part, others] = values
            if symmetric:
                products[item, others, part] = values.mT
    return products


def _is_symmetric(cov: Tensor, sd_rows: Tensor, sd_cols: Tensor) -> bool:
    if not torch.equal(sd_rows, sd_cols) or not cov.numel():
        return False
    return bool((cov - cov.mT).abs().max() <= SYMMETRY_ERROR * cov.abs().max())


def _positive_sd(var: Tensor) -> Tensor:
    return torch.where(var > 0, var, 1.0).sqrt()


def _evaluate_series(table: Tensor, c: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
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
    """Standard deviations at which the expansion is summed, and interpolation between them."""

    sd: Float[Tensor, " sd"]
    interpolated: bool

    def weights(self, sd: Float[Tensor, "*row"]) -> Float[Tensor, "*row sd"]:
        sd = sd.clamp(SMALLEST_SD, LARGEST_SD)
        if not self.interpolated:
            return (sd[..., None] == self.sd).double()
        # Barycentric interpolation at Chebyshev points of the second kind (Berrut & Trefethen 2004,
        # eq. 5.4).
        signs = (-1.0) ** torch.arange(len(self.sd), dtype=torch.float64)
        signs[0], signs[-1] = signs[0] / 2, signs[-1] / 2
        gap = sd.log()[..., None] - self.sd.log()
        at_node = gap.abs() < 1e-14
        share = torch.where(at_node.any(-1, keepdim=True), at_node.double(), signs / gap)
        return share / share.sum(-1, keepdim=True)


def _grid(sd: Tensor) -> _Grid:
    distinct = sd.clamp(SMALLEST_SD, LARGEST_SD).unique()
    if len(distinct) <= MAX_EXACT_VARIANCES:
        return _Grid(distinct, interpolated=False)
    low, high = distinct[0].log(), distinct[-1].log()
    # Kernels are analytic in log sd over a strip of half-width pi / 2 and more.
    gain = math.asinh(math.pi / (float(high - low) + 1e-9))
    nodes = min(len(distinct), 3 + math.ceil(math.log(1 / INTERPOLATION_ERROR) / gain))
    if nodes == len(distinct):
        return _Grid(distinct, interpolated=False)
    x = torch.cos(math.pi * torch.arange(nodes, dtype=torch.float64) / (nodes - 1))
    return _Grid(((low + high) / 2 + (high - low) / 2 * x).exp(), interpolated=True)


def _series(
    function: Function, breakpoints: Breakpoints, sd: Float[Tensor, " sd"]
) -> Float[Tensor, "term sd sd"]:
    angle = math.pi * torch.arange(ANGLES + 1, dtype=torch.float64) / ANGLES
    # Lobatto points x = cos(angle) in [-1, 1], with theta = (1 + x) pi / 2.
    kernel = _kernel(function, breakpoints, sd, torch.cos((1 + torch.cos(angle)) * math.pi / 2))
    end_weights = torch.ones_like(angle)
    end_weights[0] = end_weights[-1] = 0.5
    order = torch.arange(ANGLES + 1, dtype=torch.float64)
    transform = (
        torch.cos(order[:, None] * angle) * end_weights * end_weights[:, None] * (2 / ANGLES)
    )
    series = torch.einsum("ta,aij->tij", transform, kernel)
    counts = (series.abs().amax((1, 2)) > NEGLIGIBLE).nonzero()
    return series[: max(2, int(counts[-1]) + 1) if len(counts) else 2]


def _kernel(
    function: Function,
    breakpoints: Breakpoints,
    sd: Float[Tensor, " sd"],
    c: Float[Tensor, " angle"],
) -> Float[Tensor, "angle sd sd"]:
    terms = (
        MANY_TERMS
        if breakpoints.locations or breakpoints.jumps or float(sd.max()) > MANY_TERMS_SD
        else TERMS
    )
    z, weight = _z_grid(sd, breakpoints.locations)
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
    # The z grid is symmetric, so flipping it gives -z.
    tail_at_1 = weighted @ value.T - a @ a.T
    tail_at_minus_1 = weighted @ value.flip(1).T - (a * alternating) @ a.T
    even, odd = (tail_at_1 + tail_at_minus_1) / 2, (tail_at_1 - tail_at_minus_1) / 2
    even_kernel, odd_kernel = _tail_kernels(c, powers, breakpoints)
    return kernel + even_kernel[:, None, None] * even + odd_kernel[:, None, None] * odd


def _tail_kernels(c: Tensor, powers: Tensor, breakpoints: Breakpoints) -> tuple[Tensor, Tensor]:
    """Return the dependence on c of the truncated terms, even and odd part; 1 at c = 1.

    The truncated terms are those of sign(u), |u| or u|u|, which have closed-form kernels and
    represent a jump, a kink and a jump of the second derivative.
    """
    signs = _sign_squares(powers.shape[1])
    k = torch.arange(len(signs), dtype=torch.float64).clamp(min=1)
    # The derivative d/dc of the kernel of f is the kernel of f'.
    kinks = torch.cat([torch.full((1,), 2 / math.pi, dtype=torch.float64), signs[:-1]]) / k
    parabolas = 4 * torch.cat([torch.zeros(1, dtype=torch.float64), kinks[:-1]]) / k
    if breakpoints.locations and breakpoints.jumps:
        odd = _tail_kernel(_sign_kernel, signs, c, powers)
        return c * odd, odd
    even = _tail_kernel(_abs_kernel, kinks, c, powers)
    if breakpoints.locations:
        return even, c * even
    if breakpoints.jumps:
        return even, _tail_kernel(_sign_kernel, signs, c, powers)
    return even, _tail_kernel(_parabola_kernel, parabolas, c, powers)


def _tail_kernel(full: Function, squares: Tensor, c: Tensor, powers: Tensor) -> Tensor:
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
    """Return the squared coefficients of sign(u): the Taylor series of arcsin, times 2 / pi."""
    squares = torch.zeros(terms, dtype=torch.float64)
    term = 2 / math.pi
    for k in range(1, terms, 2):
        squares[k] = term / k
        term *= k / (k + 1)
    return squares


def _hermite(z: Float[Tensor, " node"], terms: int) -> Float[Tensor, "term node"]:
    """Return the normalized probabilists' Hermite polynomials."""
    rows = torch.empty(terms, len(z), dtype=torch.float64)
    rows[0], rows[1] = 1.0, z
    for k in range(1, terms - 1):
        rows[k + 1] = (z * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1)
    return rows


def _z_grid(sd: Tensor, locations: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Return symmetric nodes and weights of a standard normal, denser near 0, split at kinks."""
    panels = torch.arange(0.0, Z_MAX + PANEL / 2, PANEL, dtype=torch.float64)
    halvings = max(0, math.ceil(math.log2(4 * PANEL * float(sd.max()))))
    finer = PANEL * 0.5 ** torch.arange(1, halvings + 1, dtype=torch.float64)
    at = torch.tensor([abs(b) for b in locations], dtype=torch.float64)
    kinks = (at[:, None] / sd).flatten()
    ends = torch.cat([panels, finer, kinks[kinks < Z_MAX]]).unique()
    node, node_weight = (torch.from_numpy(x) for x in leggauss(PANEL_NODES))
    half, centre = (ends[1:] - ends[:-1]) / 2, (ends[1:] + ends[:-1]) / 2
    z = (centre[:, None] + half[:, None] * node).flatten()
    weight = (half[:, None] * node_weight).flatten() * torch.exp(-z.square() / 2)
    weight = weight / (2 * weight.sum())
    return torch.cat([-z.flip(0), z]), torch.cat([weight.flip(0), weight])
