"""Variance of a layer's moments over draws of its own weights, given its input."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.field.state import FieldLayer
from fanin.theory.finite_width.adjoints import squeeze_field

Matrix = Float[Tensor, "point point"]


def fourth_cumulant(layer: FieldLayer) -> float:
    """Average the fourth joint cumulant of (y, y, y', y') over pairs of points.

    y and y' are the pre-activations at the two points. The cumulant is 0 for a Gaussian field.
    """
    weights, root = layer.weights, layer.preact.root
    if root is not None:  # a column per weight, and the last for the bias
        squares = squeeze_field(root, 2).square().mean(0).square()
        return float(weights.kurtosis * squares[:-1].sum() + weights.bias_kurtosis * squares[-1])
    return weights.bias_kurtosis * weights.bias_var**2 if layer.preact.log_scale == 0 else 0.0


def log_m2_variance(
    cov: Matrix,
    mean: Float[Tensor, " point"],
    channels: int,
    free_fraction: float,
    cumulant: float,
) -> float:
    """Compute the variance of the log mean square of C channels of a field.

    For a centred Gaussian field it is 2 tr(K^2) / (C tr(K)^2) (docs/appendix/derivations.md, 5.3);
    for a linear layer, 2 / C. `free_fraction` is that of the layer's weights in the forward pass
    (`FreeFraction.forward`), and `cumulant` is the result of `fourth_cumulant`.
    """
    total = cov.trace() + mean.square().sum()
    if not total > 0:
        return 0.0
    own = 2 * cov.square().sum() + 4 * mean @ cov @ mean + len(cov) ** 2 * cumulant
    own = own / total.square()
    return _log_variance(free_fraction * float(own) / channels)


def log_var_variance(
    cov: Matrix, images_per_field: int, channels: int, free_fraction: float, cumulant: float
) -> float:
    """Compute the variance of log `preact_var`, taken around the mean over points and channels."""
    points = len(cov) // images_per_field
    means = torch.eye(images_per_field, dtype=torch.float64).repeat_interleave(points, 0) / points
    mean_products = cov @ means
    squares = means.mT @ mean_products / channels
    m2 = cov.diagonal().mean()
    value = m2 - squares.diagonal().mean()
    if not value > 1e-9 * m2:  # a single unit equals its own mean
        return 0.0
    own = free_fraction * (2 * cov.square().mean() + cumulant) / channels
    size = len(cov) * images_per_field * channels**2
    cross = free_fraction * 2 * mean_products.square().sum() / size
    variance = own + 2 * squares.square().mean() - 2 * cross
    return _log_variance(float(variance / value.square()))


def _log_variance(variance: float) -> float:
    """Return the variance of the log of a chi-square variable with this relative variance."""
    return float(torch.special.polygamma(1, torch.tensor(1 / variance))) if variance > 0 else 0.0
