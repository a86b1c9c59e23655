"""Dead ReLUs at initialization: units that no image of a batch turns on, and nets that none can.

A unit's pre-activations on a batch are Gaussian over draws of its weights, with the images'
covariance, so the expected share of dead units is the chance of a negative orthant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import log_ndtr, ndtr, ndtri
from torch import Tensor

from fanin.theory.quadrature import gaussian_nodes

SAMPLES = 1024
REPEATS = 8
JITTER = 1e-12


def born_dead(widths: Sequence[int]) -> float:
    """Chance that on one input some layer has no unit on, with symmetric weights and biases.

    Lu et al. (2019, theorem 2), where it is a bound; for a single input it is exact.

    Parameters
    ----------
    widths
        Units of every layer that a ReLU follows.

    Examples
    --------
    >>> born_dead([2, 1])
    0.625
    """
    alive = sum(math.log1p(-(2.0**-n)) for n in widths)
    return -math.expm1(alive)


def dead_share_equal(correlation: float, batch: int, shift: float = 0.0) -> float:
    """Expected share of units dead on a whole batch whose images are all equally correlated.

    Parameters
    ----------
    correlation
        Of any two images' pre-activations, from 0 to 1.
    batch
        Number of images.
    shift
        The units' mean over their standard deviation.

    Examples
    --------
    >>> round(dead_share_equal(0.0, 2), 12), round(dead_share_equal(0.5, 2), 12)
    (0.25, 0.333333333333)
    """
    if correlation >= 1:
        return float(ndtr(-shift))
    # Given the common factor t the images are independent; in t / (its slope) the integrand is
    # a bounded bend at 0, where the nodes are dense.
    slope = math.sqrt(correlation / (1 - correlation))
    offset = shift / math.sqrt(1 - correlation)
    mean = torch.tensor(offset, dtype=torch.float64)
    x, weight = gaussian_nodes(mean, torch.tensor(slope**2, dtype=torch.float64), 24)
    return float((weight.numpy() * np.exp(batch * log_ndtr(-x.numpy()))).sum())


def dead_share(
    cov: Float[Tensor, "image image"],
    mean: Float[Tensor, " image"] | None = None,
    *,
    samples: int = SAMPLES,
    repeats: int = REPEATS,
    seed: int = 0,
) -> tuple[float, float]:
    """Expected share of units dead on a whole batch, and the standard error of that number.

    One image after the other is drawn negative given those before it, weighted by how likely
    that is (Genz 1992), at scrambled Sobol points; the scramblings' scatter is the error.

    Parameters
    ----------
    cov
        Covariance of a unit's pre-activations on the images. An image with none at all counts
        as off, since relu(0) = 0.
    mean
        Their mean; 0 by default.
    samples, repeats
        Points, and independent scramblings of them.
    seed
        Of the scrambling.

    Examples
    --------
    >>> value, se = dead_share(torch.eye(3).double())
    >>> round(value, 12), se < 1e-12
    (0.125, True)
    """
    mean = torch.zeros(len(cov), dtype=torch.float64) if mean is None else mean.double()
    var = cov.diagonal().double()
    fixed = var <= 0
    if bool((fixed & (mean > 0)).any()):
        return 0.0, 0.0
    sd = var[~fixed].sqrt()
    if len(sd) == 0:
        return 1.0, 0.0
    correlation = cov.double()[~fixed][:, ~fixed] / sd[:, None] / sd
    factor = torch.linalg.cholesky(_definite(correlation)).numpy()
    limits = -(mean[~fixed] / sd).numpy()
    estimates = np.array(
        [_orthant(factor, limits, samples, seed * repeats + r) for r in range(repeats)]
    )
    return float(estimates.mean()), float(estimates.std(ddof=1) / math.sqrt(repeats))


def _definite(correlation: Tensor) -> Tensor:
    # Repeated or dependent images leave the matrix singular, or by rounding worse.
    lowest = float(torch.linalg.eigvalsh(correlation)[0])
    return correlation + (JITTER + max(0.0, -2 * lowest)) * torch.eye(
        len(correlation), dtype=torch.float64
    )


def _orthant(factor: np.ndarray, limits: np.ndarray, samples: int, seed: int) -> float:
    n = len(limits)
    engine = torch.quasirandom.SobolEngine(n, scramble=True, seed=seed)
    uniform = engine.draw(samples, dtype=torch.float64).numpy().clip(1e-15, 1 - 1e-15)
    z = np.zeros((n, samples))
    log_weight = np.zeros(samples)
    for i in range(n):
        limit = (limits[i] - factor[i, :i] @ z[:i]) / factor[i, i]
        log_weight += log_ndtr(limit)
        # Far in the tail, where the normal cdf underflows, the draw is as good as the limit.
        drawn = ndtri(np.maximum(uniform[:, i] * ndtr(limit), 1e-300))
        z[i] = np.minimum(drawn, limit)
    return float(np.exp(log_weight).mean())
