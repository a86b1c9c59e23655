"""Probability that a layer's pre-activations overflow a floating-point type.

Computations use logarithms, because the second moments themselves may overflow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float64
from numpy.polynomial.legendre import leggauss
from scipy.special import erfc

from fanin.statistics.draw_distribution import log_mean_excess
from fanin.statistics.log_gamma import from_normal

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Z_MAX = 9.0  # range of integration over the normal value that determines m
NODES = 400
MIN_VARIANCE_SHARE = 1e-30  # avoids division by 0 if all units are equal


def overflow_probability(
    log_m2: float,
    count: float,
    dtype: torch.dtype,
    log_sd: float = 0.0,
    log_skew: float = 0.0,
    squared: bool = False,
    variance_share: float = 1.0,
) -> float:
    """Return the probability that at least one pre-activation of a layer overflows.

    Parameters
    ----------
    log_m2
        Logarithm of E[y^2].
    count
        Number of pre-activations: units times positions times images. They are treated as
        independent given the draw's second moment; correlated ones overflow slightly later.
    dtype
        `torch.float32`, `torch.bfloat16`, `torch.float16` or any other floating-point type.
    log_sd
        Standard deviation of the log of one draw's second moment.
    log_skew
        Its skewness; 0 if the second moment is log-normal.
    squared
        True if the squares must also be representable, as in a variance computed in that type.
        They overflow at half the depth.
    variance_share
        Fraction of E[y^2] that is variance between units. The rest comes from a mean that all units
        share (from weights of non-zero mean). This mean is random; the formula uses its root mean
        square.

    Examples
    --------
    >>> overflow_probability(math.log(4e9), 1000, torch.float16) > 0.99  # standard deviation 63e3
    True
    >>> overflow_probability(math.log(1e6), 1000, torch.float16)
    0.0
    >>> log_m2 = math.log(9e8)  # units near 30e3
    >>> overflow_probability(log_m2, 1000, torch.float16, variance_share=1e-3) < 1e-100
    True
    """
    if math.isnan(log_m2):
        return math.nan
    if math.isinf(log_m2):
        return 1.0 if log_m2 > 0 else 0.0
    log_limit = math.log(torch.finfo(dtype).max) / (2 if squared else 1)
    node, weight = _legendre()
    z = Z_MAX * node
    density = weight * np.exp(-(z**2) / 2)
    # The mean of m is exp(log_m2), so its mean logarithm is lower.
    mean_log = log_m2 - log_mean_excess(log_sd, log_skew)
    log_m = mean_log + log_sd * from_normal(z, log_skew)
    limit = np.exp(np.minimum(log_limit - log_m / 2, 50.0))  # in units of the root mean square
    mean = math.sqrt(1 - variance_share)
    sd = math.sqrt(max(variance_share, MIN_VARIANCE_SHARE))
    # The two tails differ if the units have a common mean.
    tails = [erfc((limit - sign * mean) / sd / math.sqrt(2)) / 2 for sign in (1, -1)]
    unit = np.minimum(tails[0] + tails[1], 1 - 1e-16)
    layer = -np.expm1(count * np.log1p(-unit))
    return float((density * layer).sum() / density.sum())


@cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    node, weight = leggauss(NODES)
    return node, weight


def overflow_probabilities(
    log_m2: Sequence[float] | Float64[np.ndarray, " layer"],
    counts: Sequence[float],
    dtype: torch.dtype,
    log_sd: Sequence[float] | Float64[np.ndarray, " layer"] | None = None,
    squared: bool = False,
    variance_share: Sequence[float] | Float64[np.ndarray, " layer"] | None = None,
) -> Float64[np.ndarray, " layer"]:
    """Return `overflow_probability` of every layer, in forward order."""
    log_sds = [0.0] * len(log_m2) if log_sd is None else log_sd
    shares = [1.0] * len(log_m2) if variance_share is None else variance_share
    layers = zip(log_m2, counts, log_sds, shares, strict=True)
    return np.array(
        [
            overflow_probability(m, n, dtype, sd, squared=squared, variance_share=s)
            for m, n, sd, s in layers
        ]
    )


def first_overflow(probabilities: Sequence[float] | Float64[np.ndarray, " layer"]) -> int | None:
    """Return the first layer (from 1) with an overflow probability above 1/2, or None.

    Examples
    --------
    >>> first_overflow([0.0, 0.2, 0.9, 1.0])
    3
    """
    for layer, probability in enumerate(probabilities, start=1):
        if probability > 0.5:
            return layer
    return None
