"""The chance that a layer's pre-activations are too large for a floating-point type.

All of it on the scale of logarithms, for the second moments in question overflow themselves.
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

FLOATING = (torch.float32, torch.bfloat16, torch.float16)
SPREAD = 9.0  # standard deviations of log m over which it is averaged
NODES = 400
NARROWEST = 1e-30  # share of E[y^2]: units that are all alike are either below a limit or above


def overflow_probability(
    log_m2: float,
    count: float,
    dtype: torch.dtype,
    log_sd: float = 0.0,
    squared: bool = False,
    between: float = 1.0,
) -> float:
    """Chance that at least one of a layer's pre-activations is beyond a type's largest number.

    Parameters
    ----------
    log_m2
        log E[y^2].
    count
        How many pre-activations: units times positions times images. They count as independent
        given the draw's second moment; correlated ones overflow a little later.
    dtype
        `torch.float32`, `torch.bfloat16`, `torch.float16` or any other floating type.
    log_sd
        Spread of one draw's log second moment, which is taken as log-normal.
    squared
        Whether it is the squares that must fit, as in a variance taken in that type: they
        overflow at half the depth.
    between
        The share of E[y^2] that differs between units; the rest is a mean that all of them have, as
        weights of non-zero mean give it, and that is taken at its root mean square.

    Examples
    --------
    >>> overflow_probability(math.log(4e9), 1000, torch.float16) > 0.99  # a standard deviation of 63e3
    True
    >>> overflow_probability(math.log(1e6), 1000, torch.float16)
    0.0
    >>> overflow_probability(math.log(9e8), 1000, torch.float16, between=1e-3) < 1e-100  # near 30e3
    True
    """
    if math.isnan(log_m2):
        return math.nan
    if math.isinf(log_m2):
        return 1.0 if log_m2 > 0 else 0.0
    log_limit = math.log(torch.finfo(dtype).max) / (2 if squared else 1)
    node, weight = _legendre()
    z = SPREAD * node
    share = weight * np.exp(-(z**2) / 2)
    # E[m] = exp(log_m2), so the median lies lower.
    log_m = log_m2 - log_sd**2 / 2 + log_sd * z
    limit = np.exp(np.minimum(log_limit - log_m / 2, 50.0))  # in root mean squares
    common, spread = math.sqrt(1 - between), math.sqrt(max(between, NARROWEST))
    # Above and below, in standard deviations: of a common mean both sides are not alike.
    sides = [erfc((limit - sign * common) / spread / math.sqrt(2)) / 2 for sign in (1, -1)]
    each = np.minimum(sides[0] + sides[1], 1 - 1e-16)
    chance = -np.expm1(count * np.log1p(-each))
    return float((share * chance).sum() / share.sum())


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
    between: Sequence[float] | Float64[np.ndarray, " layer"] | None = None,
) -> Float64[np.ndarray, " layer"]:
    """`overflow_probability` of every layer, in forward order."""
    spreads = [0.0] * len(log_m2) if log_sd is None else log_sd
    shares = [1.0] * len(log_m2) if between is None else between
    layers = zip(log_m2, counts, spreads, shares, strict=True)
    return np.array([overflow_probability(m, n, dtype, sd, squared, b) for m, n, sd, b in layers])


def first_overflow(chances: Sequence[float] | Float64[np.ndarray, " layer"]) -> int | None:
    """Return the first layer, from 1, that overflows more likely than not; None if none does.

    Examples
    --------
    >>> first_overflow([0.0, 0.2, 0.9, 1.0])
    3
    """
    for layer, chance in enumerate(chances, start=1):
        if chance > 0.5:
            return layer
    return None
