"""Depth scales of signals and gradients in a wide dense network.

The second moment q and the correlation c of the pre-activations of two inputs have fixed points
(Poole et al. 2016, eqs 3-5), which they approach like exp(-depth / xi) (Schoenholz et al. 2017,
eqs 3-6).
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
"""Largest |chi_1 - 1| that counts as critical."""
TINY_Q = 1e-24  # represents a second moment that converges to 0
Q_GRID = torch.logspace(-20, 20, 1601, dtype=torch.float64)


@dataclass(frozen=True)
class DepthScales:
    """Fixed point of a wide dense network, and the rate of convergence with depth.

    Attributes
    ----------
    phase
        `ordered` (chi_1 < 1), `critical` or `chaotic` (chi_1 > 1). If there is no single fixed
        point: `q grows`, `q shrinks` or `any q` (every q is a fixed point, as for ReLU with He
        init).
    q_star
        Second moment of the pre-activations at infinite depth; NaN if it does not exist.
    chi_1
        Factor per layer on the second moment of a gradient, and on 1 - c at c = 1.
    chi_q
        Factor per layer on q - q_star.
    c_star
        Correlation of two inputs at infinite depth.
    chi_c
        Factor per layer on c - c_star.
    xi_q, xi_c
        Number of layers over which q - q_star and c - c_star decrease by a factor e; inf if they
        decrease slower than exponentially.
    log_sensitivity
        d log V / d log q at q_star, with V(q) the second moment after the activation. Above 1,
        relative errors of q grow from layer to layer.
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
    """Compute the depth scales of a wide dense network (Schoenholz et al. 2017).

    Parameters
    ----------
    function
        Activation, elementwise in float64.
    weight_var
        sigma_w^2: fan-in times the variance of the weights.
    bias_var
        sigma_b^2: variance of the biases.
    start
        Second moment of the pre-activations in the first layer. It selects the fixed point if
        there are several.

    Examples
    --------
    >>> tanh = depth_scales(torch.tanh, 1.3, 0.05)
    >>> tanh.phase, round(tanh.q_star, 6), round(tanh.xi_c, 4)
    ('ordered', 0.315316, 7.8341)
    >>> depth_scales(torch.relu, 2.0).phase
    'any q'
    """
    law = pair_expectations(function)
    if law.homogeneous is not None and (
        bias_var == 0 or _homogeneous_factor(law) * weight_var >= 1
    ):
        return _homogeneous_scales(_homogeneous_factor(law) * weight_var, bias_var)
    q = _fixed_point(lambda q: weight_var * law.second_moment(q) + bias_var, start)
    if q is None:
        return DepthScales("q grows", *[math.nan] * 8)
    # If q converges to 0, evaluate at a tiny q instead.
    var = torch.full((1,), max(q, TINY_Q), dtype=torch.float64)
    chi_1 = weight_var * float(law.slope_m2(var))
    sensitivity = float(log_sensitivity(function, var))
    chi_q = sensitivity * weight_var * float(law.second_moment(var) / var)
    c_star = 1.0 if chi_1 <= 1 + AT_CRITICAL else _fixed_correlation(law, weight_var, bias_var, var)
    chi_c = chi_1
    if c_star < 1:
        chi_c = weight_var * float(law.slope_covariance(c_star * var[:, None], var, var))
    return DepthScales(
        _phase(chi_1),
        q,
        chi_1,
        chi_q,
        c_star,
        chi_c,
        _depth_scale(chi_q),
        _depth_scale(chi_c),
        sensitivity,
    )


def log_sensitivity(function: Function, var: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return d log V / d log q of V(q) = E[phi(sqrt(q) z)^2].

    The formula is V'(q) = E[phi(u)^2 (z^2 - 1)] / (2 q) with u = sqrt(q) z, which needs no
    derivative of phi and therefore allows kinks.

    Examples
    --------
    >>> one = torch.ones((), dtype=torch.float64)
    >>> round(float(log_sensitivity(torch.relu, one)), 12)
    1.0
    """
    # The clamped values are close enough to the limits at 0 and infinity.
    var = var.clamp(1e-200, 1e200)
    u, weight = gaussian_nodes(torch.zeros_like(var), var)
    value = function(u)
    size = value.abs().amax(-1, keepdim=True)
    square = weight * (value / torch.where(size > 0, size, 1.0)).square()
    lengths = (u / var.sqrt()[..., None]).square() - 1
    return (square * lengths).sum(-1) / (2 * square.sum(-1))


def critical_point(function: Function, q_star: float) -> tuple[float, float]:
    """Return the sigma_w^2 and sigma_b^2 for which q_star is a fixed point with chi_1 = 1.

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
    """Return the sigma_w^2 with chi_1 = 1 for an activation and a bias variance.

    If there are several solutions, return the one with the smallest fixed point q. For positively
    homogeneous activations (ReLU, leaky ReLU) the solution is 1 / E[phi'^2] for every bias
    variance, although q has a fixed point only for a bias variance of 0.

    Raises
    ------
    ValueError
        No sigma_w^2 gives chi_1 = 1 with this bias variance.

    Examples
    --------
    >>> critical_weight_var(torch.relu)
    2.0
    >>> round(critical_weight_var(torch.tanh, 0.05), 5)
    1.76095
    """
    law = pair_expectations(function)
    if law.homogeneous is not None:
        return 1 / _homogeneous_factor(law)
    at_0 = float(function(torch.zeros(1, dtype=torch.float64)))
    if bias_var == 0 and at_0 == 0:
        return critical_point(function, TINY_Q)[0]
    q = Q_GRID[(Q_GRID >= 1e-12) & (Q_GRID <= 1e8)]
    excess = q - law.second_moment(q) / law.slope_m2(q) - bias_var
    crossings = ((excess[:-1] * excess[1:] <= 0) & excess[1:].isfinite()).nonzero()
    if len(crossings) == 0:
        raise ValueError(
            f"bias_var={bias_var}: no fixed point with chi_1 = 1 has this bias variance; call"
            " critical_point(function, q_star) for the variances that this activation allows"
        )
    i = int(crossings[0])

    def bias_var_excess(q: float) -> float:
        return critical_point(function, q)[1] - bias_var

    return critical_point(function, _root(bias_var_excess, float(q[i]), float(q[i + 1])))[0]


def _homogeneous_factor(law: PairExpectations) -> float:
    """Return E[phi(u)^2] / E[u^2] = E[phi'(u)^2] of a positively homogeneous activation."""
    return float(law.second_moment(torch.ones(1, dtype=torch.float64)))


def _homogeneous_scales(factor: float, bias_var: float) -> DepthScales:
    """Return the depth scales of a positively homogeneous activation without a single fixed point.

    Without biases, the map from the correlation c in one layer to that in the next does not depend
    on q and is tangent to the diagonal at c = 1. So c converges to 1 like a power of the depth.
    """
    phase: Phase = "q grows" if factor > 1 or bias_var > 0 else "q shrinks"
    if bias_var == 0 and abs(factor - 1) < AT_CRITICAL:
        phase = "any q"
    return DepthScales(
        phase, math.nan, factor, factor, 1.0, 1.0, _depth_scale(factor), math.inf, 1.0
    )


def _phase(chi_1: float) -> Phase:
    if abs(chi_1 - 1) < AT_CRITICAL:
        return "critical"
    return "ordered" if chi_1 < 1 else "chaotic"


def _depth_scale(chi: float) -> float:
    if chi <= 0:
        return 0.0
    return -1 / math.log(chi) if chi < 1 - 1e-12 else math.inf


def _fixed_point(step: Function, start: float) -> float | None:
    """Return the first fixed point reached from `start`, or None if q grows without bound."""

    def excess(q: float) -> float:
        return float(step(torch.full((1,), q, dtype=torch.float64))) - q

    grid = torch.cat([Q_GRID, torch.tensor([start], dtype=torch.float64)]).unique()
    change = step(grid) / grid - 1
    # Rounding errors must not count as crossings.
    sign = torch.where(change.abs() < 1e-13, 0.0, change).sign()
    at = int((grid == start).nonzero())
    if sign[at] == 0:
        return start
    up = bool(sign[at] > 0)
    path = range(at + 1, len(grid)) if up else range(at - 1, -1, -1)
    for i in path:
        if sign[i] == -sign[at]:
            inner = i - 1 if up else i + 1
            return _root(excess, float(grid[min(i, inner)]), float(grid[max(i, inner)]))
    return None if up else 0.0


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    """Find a root by bisection on a log scale, because the ends may be decades apart."""
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


def _fixed_correlation(
    law: PairExpectations, weight_var: float, bias_var: float, var: Tensor
) -> float:
    """Return the stable fixed point c* < 1 of the correlation map of a chaotic network.

    It is unique because the map is convex on [0, 1].
    """
    low, high = 0.0, 1.0
    for _ in range(6):
        c = torch.linspace(low, high, 201, dtype=torch.float64)
        after = weight_var * law.covariance(c[:, None] * var, var.expand(201), var) + bias_var
        rises = ((after[:, 0] / var - c) > 0)[:-1].nonzero()
        if len(rises) == 0:
            return low
        # The map is above the diagonal on [0, c*) and below it on (c*, 1).
        last = int(rises[-1])
        low, high = float(c[last]), float(c[last + 1])
    return (low + high) / 2
