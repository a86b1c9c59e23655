"""Depth that signals and gradients reach in a wide dense network, by activation and variances.

Poole et al. (2016, eqs 3-5): the length q and the correlation c of two inputs' pre-activations
have fixed points; Schoenholz et al. (2017, eqs 3-6): they are approached like exp(-depth / xi).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.elementwise import Function
from fanin.theory.gaussian_pairs import PairExpectations, pair_expectations
from fanin.theory.quadrature import gaussian_nodes

Phase = Literal["ordered", "chaotic", "critical", "q grows", "q shrinks", "any q"]

AT_CRITICAL = 1e-6
"""chi_1 this near 1 counts as critical: 1e6 layers tell no difference."""
VANISHED = 1e-24  # stands for a second moment that goes to 0
LENGTHS = torch.logspace(-20, 20, 1601, dtype=torch.float64)


@dataclass(frozen=True)
class DepthScales:
    """The fixed point of a wide dense network, and how fast depth leads there.

    Attributes
    ----------
    phase
        Where chi_1 stands to 1; or, for activations straight on both sides of 0 without bias and
        for those whose q has no bound, what q does instead of having one fixed point.
    q_star
        Second moment of the pre-activations at great depth; NaN where there is none.
    chi_1
        Factor of a gradient's second moment per layer, and of 1 - c at c = 1.
    chi_q
        Factor of q - q_star per layer.
    c_star, chi_c
        Correlation of two inputs at great depth, and the factor of c - c_star per layer.
    xi_q, xi_c
        Depths over which those two fade by e; inf where the approach is slower than that.
    log_sensitivity
        d log V / d log q at q_star: above 1, relative errors of q grow from layer to layer.
    """

    phase: Phase
    q_star: float
    chi_1: float
    chi_q: float
    c_star: float
    chi_c: float
    xi_q: float
    xi_c: float
    log_sensitivity: float


def depth_scales(
    function: Function, weight_var: float, bias_var: float = 0.0, start: float = 1.0
) -> DepthScales:
    """Find the fixed point that a network reaches from pre-activations of second moment `start`.

    Parameters
    ----------
    function
        The activation, elementwise in float64.
    weight_var
        sigma_w^2: fan-in times the weights' variance.
    bias_var
        sigma_b^2.
    start
        Second moment in the first layer; matters only where there are several fixed points.

    Examples
    --------
    >>> tanh = depth_scales(torch.tanh, 1.3, 0.05)
    >>> tanh.phase, round(tanh.q_star, 6), round(tanh.xi_c, 4)
    ('ordered', 0.315316, 7.8341)
    >>> depth_scales(torch.relu, 2.0).phase
    'any q'
    """
    law = pair_expectations(function)
    if law.rays is not None and (bias_var == 0 or _straight(law) * weight_var >= 1):
        return _drifting(_straight(law) * weight_var, bias_var)
    q = _fixed_point(lambda q: weight_var * law.second_moment(q) + bias_var, start)
    if q is None:
        return DepthScales("q grows", *[math.nan] * 8)
    # A q that vanishes is looked at a little before it does, on the way there.
    var = torch.full((1,), max(q, VANISHED), dtype=torch.float64)
    chi_1 = weight_var * float(law.slope_m2(var))
    sensitivity = float(log_sensitivity(function, var))
    chi_q = sensitivity * weight_var * float(law.second_moment(var) / var)
    c_star = 1.0 if chi_1 <= 1 + AT_CRITICAL else _correlation(law, weight_var, bias_var, var)
    chi_c = chi_1
    if c_star < 1:
        chi_c = weight_var * float(law.slope_covariance(c_star * var[:, None], var, var))
    return DepthScales(
        _phase(chi_1), q, chi_1, chi_q, c_star, chi_c, _scale(chi_q), _scale(chi_c), sensitivity
    )


def log_sensitivity(function: Function, var: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """D log V / d log q of V(q) = E[phi(sqrt(q) z)^2], kinks included.

    By V'(q) = E[phi(u)^2 (z^2 - 1)] / (2 q), which needs no derivative of phi.

    Examples
    --------
    >>> one = torch.ones((), dtype=torch.float64)
    >>> round(float(log_sensitivity(torch.relu, one)), 12)
    1.0
    """
    # At 0 and at infinity it has limits, which these are near enough to.
    var = var.clamp(1e-200, 1e200)
    u, weight = gaussian_nodes(torch.zeros_like(var), var)
    value = function(u)
    size = value.abs().amax(-1, keepdim=True)
    square = weight * (value / torch.where(size > 0, size, 1.0)).square()
    lengths = (u / var.sqrt()[..., None]).square() - 1
    return (square * lengths).sum(-1) / (2 * square.sum(-1))


def critical_point(function: Function, q_star: float) -> tuple[float, float]:
    """Return the sigma_w^2 and sigma_b^2 with chi_1 = 1 at the fixed point q_star.

    Examples
    --------
    >>> weight_var, bias_var = critical_point(torch.tanh, 0.1)
    >>> round(weight_var, 8), round(bias_var, 8)
    (1.1775691, 0.00083228)
    """
    law = pair_expectations(function)
    var = torch.full((1,), q_star, dtype=torch.float64)
    weight_var = 1 / float(law.slope_m2(var))
    return weight_var, q_star - weight_var * float(law.second_moment(var))


def critical_weight_var(function: Function, bias_var: float = 0.0) -> float:
    """Return the sigma_w^2 with chi_1 = 1 for this activation and bias.

    For activations straight on both sides of 0 it is 1 / E[phi'^2] whatever the bias, though q
    has a fixed point only without one. Of several the one of the smallest q.

    Raises
    ------
    ValueError
        No q makes the activation critical with this bias.

    Examples
    --------
    >>> critical_weight_var(torch.relu)
    2.0
    >>> round(critical_weight_var(torch.tanh, 0.05), 5)
    1.76095
    """
    law = pair_expectations(function)
    if law.rays is not None:
        return 1 / _straight(law)
    at_0 = float(function(torch.zeros(1, dtype=torch.float64)))
    if bias_var == 0 and at_0 == 0:
        return critical_point(function, VANISHED)[0]
    q = LENGTHS[(LENGTHS >= 1e-12) & (LENGTHS <= 1e8)]
    excess = q - law.second_moment(q) / law.slope_m2(q) - bias_var
    crossings = ((excess[:-1] * excess[1:] <= 0) & excess[1:].isfinite()).nonzero()
    if len(crossings) == 0:
        raise ValueError(
            f"no fixed point with chi_1 = 1 has bias variance {bias_var}; "
            "ask critical_point for the pairs that this activation has"
        )
    i = int(crossings[0])

    def lacking(q: float) -> float:
        return critical_point(function, q)[1] - bias_var

    return critical_point(function, _root(lacking, float(q[i]), float(q[i + 1])))[0]


def _straight(law: PairExpectations) -> float:
    """E[phi(u)^2] / E[u^2] = E[phi'(u)^2] of an activation straight on both sides of 0."""
    return float(law.second_moment(torch.ones(1, dtype=torch.float64)))


def _drifting(factor: float, bias_var: float) -> DepthScales:
    """Of an activation straight on both sides of 0, whose q has no single fixed point.

    Without bias the correlation's map does not depend on q and touches the diagonal at 1, so c
    goes to 1, by a power of the depth.
    """
    phase: Phase = "q grows" if factor > 1 or bias_var > 0 else "q shrinks"
    if bias_var == 0 and abs(factor - 1) < AT_CRITICAL:
        phase = "any q"
    return DepthScales(phase, math.nan, factor, factor, 1.0, 1.0, _scale(factor), math.inf, 1.0)


def _phase(chi_1: float) -> Phase:
    if abs(chi_1 - 1) < AT_CRITICAL:
        return "critical"
    return "ordered" if chi_1 < 1 else "chaotic"


def _scale(chi: float) -> float:
    if chi <= 0:
        return 0.0
    return -1 / math.log(chi) if chi < 1 - 1e-12 else math.inf


def _fixed_point(step: Function, start: float) -> float | None:
    """The first q where the map meets the diagonal on the way from start; None: no bound."""

    def excess(q: float) -> float:
        return float(step(torch.full((1,), q, dtype=torch.float64))) - q

    grid = torch.cat([LENGTHS, torch.tensor([start], dtype=torch.float64)]).unique()
    change = step(grid) / grid - 1
    # Rounding must not look like a meeting.
    side = torch.where(change.abs() < 1e-13, 0.0, change).sign()
    at = int((grid == start).nonzero())
    if side[at] == 0:
        return start
    up = bool(side[at] > 0)
    path = range(at + 1, len(grid)) if up else range(at - 1, -1, -1)
    for i in path:
        if side[i] == -side[at]:
            inner = i - 1 if up else i + 1
            return _root(excess, float(grid[min(i, inner)]), float(grid[max(i, inner)]))
    return None if up else 0.0


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    """Bisection; in the logarithm, as the ends are positive and may be decades apart."""
    below = f(low) < 0
    for _ in range(80):
        middle = math.sqrt(low * high)
        if middle in (low, high):
            break
        if (f(middle) < 0) == below:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def _correlation(law: PairExpectations, weight_var: float, bias_var: float, var: Tensor) -> float:
    """The stable c < 1 of a chaotic network; one, for the map is convex on [0, 1]."""
    low, high = 0.0, 1.0
    for _ in range(6):
        c = torch.linspace(low, high, 201, dtype=torch.float64)
        after = weight_var * law.covariance(c[:, None] * var, var.expand(201), var) + bias_var
        rises = ((after[:, 0] / var - c) > 0)[:-1].nonzero()
        if len(rises) == 0:
            return low
        # Above the diagonal from 0 up to c*, below it from there to 1.
        last = int(rises[-1])
        low, high = float(c[last]), float(c[last + 1])
    return (low + high) / 2
