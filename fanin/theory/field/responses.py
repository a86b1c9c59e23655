"""How a unit's cotangent answers to its own pre-activation: moments of single points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.elementwise import Function, derivative
from fanin.theory.quadrature import COARSE, gaussian_nodes, most_nodes

NODES_AT_ONCE = 2**17
Points = Float[Tensor, "*point"]


@dataclass(frozen=True)
class ResponseMoments:
    """Expectations over y ~ N(mean, var).

    Attributes
    ----------
    slope, force
        E[phi'] and E[phi phi'].
    bend, force_slope
        E[phi''] and E[(phi phi')'], by Stein's lemma E[f'(y)] = E[f(y) (y - mean)] / var, which
        holds at kinks too.
    slope_m2, cross_m2, force_m2
        E[phi'^2], E[phi phi'^2] and E[phi^2 phi'^2].
    """

    slope: Points
    force: Points
    bend: Points
    force_slope: Points
    slope_m2: Points
    cross_m2: Points
    force_m2: Points


def response_moments(function: Function, mean: Points, var: Points) -> ResponseMoments:
    """Moments of an elementwise function's slope and of its product with the function.

    Examples
    --------
    >>> zero, one = torch.zeros(1).double(), torch.ones(1).double()
    >>> relu = response_moments(torch.relu, zero, one)
    >>> round(relu.slope.item(), 6), round(relu.bend.item(), 6)  # 1/2 and 1/sqrt(2 pi)
    (0.5, 0.398942)
    """
    chunk = max(1, NODES_AT_ONCE // most_nodes(COARSE))
    chunks = zip(mean.flatten().split(chunk), var.flatten().split(chunk), strict=True)
    parts = [_moments(function, m, v) for m, v in chunks]
    return ResponseMoments(
        *(torch.cat(part).reshape(mean.shape) for part in zip(*parts, strict=True))
    )


def _moments(function: Function, mean: Tensor, var: Tensor) -> tuple[Tensor, ...]:
    y, weight = gaussian_nodes(mean, var, COARSE)
    value, slope = derivative(function, y)
    force = value * slope
    # Where nothing varies, nothing can answer either.
    score = torch.where(var > 0, 1 / var, 0.0)[:, None] * (y - mean[:, None])

    def average(x: Tensor) -> Tensor:
        return (weight * x).sum(-1)

    return (
        average(slope),
        average(force),
        average(slope * score),
        average(force * score),
        average(slope.square()),
        average(slope * force),
        average(force.square()),
    )
