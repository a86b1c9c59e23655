"""What a layer's channels scatter at the layer itself, its inputs given."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Covariance = Float[Tensor, "point point"]


def around_zero(
    cov: Covariance, mean: Float[Tensor, " point"], channels: int, freedom: float
) -> float:
    """Variance of the log of a layer's mean square, over C channels of a Gaussian field.

    2 tr(K^2) / (C tr(K)^2) for a centred one (THEORY.md, section 5.3): for a linear layer, 2 / C.

    Examples
    --------
    >>> one = torch.ones(1, 1).double()
    >>> round(around_zero(one, torch.zeros(1).double(), 100, 1.0), 4)
    0.0202
    """
    total = cov.trace() + mean.square().sum()
    if not total > 0:
        return 0.0
    own = (2 * cov.square().sum() + 4 * mean @ cov @ mean) / total.square()
    return _of_log(freedom * float(own) / channels)


def around_mean(cov: Covariance, images: int, channels: int, freedom: float) -> float:
    """The same around the mean over an image's points and channels: of `preact_var`."""
    points = len(cov) // images
    means = torch.eye(images, dtype=torch.float64).repeat_interleave(points, 0) / points
    against = cov @ means
    squares = means.mT @ against / channels
    m2 = cov.diagonal().mean()
    value = m2 - squares.diagonal().mean()
    if not value > 1e-9 * m2:  # a single unit is its own mean
        return 0.0
    own = freedom * 2 * cov.square().mean() / channels
    both = freedom * 2 * against.square().sum() / (len(cov) * images * channels**2)
    variance = own + 2 * squares.square().mean() - 2 * both
    return _of_log(float(variance / value.square()))


def _of_log(variance: float) -> float:
    """Of the log of a chi-square that has this relative variance: a little more."""
    return float(torch.special.polygamma(1, torch.tensor(1 / variance))) if variance > 0 else 0.0
