"""Distribution of one draw's moment: exactly 0 with some probability, otherwise log-normal.

A moment is exactly 0 in the draws in which a layer is dead. With p = `zero_probability`, the other
draws follow log m ~ N(log(value / (1 - p)) - log_sd^2 / 2, log_sd^2), so `value` is E[m] over all
draws. A log-moment of -inf stands for a moment of 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

NOMINAL = 0.95
LEVELS = (1 - NOMINAL) / 2, (1 + NOMINAL) / 2
Z = float(stats.norm.ppf(LEVELS[1]))


def log_median(log_value: ArrayLike, log_sd: ArrayLike, zero_probability: ArrayLike) -> np.ndarray:
    """Return the logarithm of the median of the draws that are not 0; NaN if all draws are 0."""
    log_sd, p = np.asarray(log_sd, float), np.asarray(zero_probability, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(log_value - np.log1p(-p) - log_sd**2 / 2)


def log_interval(
    median: ArrayLike, log_sd: ArrayLike, zero_probability: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2.5 % and 97.5 % quantiles of one draw's log-moment.

    Parameters
    ----------
    median
        Result of `log_median`.
    log_sd, zero_probability
        Standard deviation of the log-moment of a draw that is not 0, and probability of 0.

    Examples
    --------
    >>> [float(bound) for bound in log_interval(0.0, 1.0, 0.5)]  # 0.475 of the draws are above 1
    [-inf, 1.6448536269514722]
    >>> [round(float(bound), 2) for bound in log_interval(0.0, 1.0, 0.0)]
    [-1.96, 1.96]
    """
    p = np.asarray(zero_probability, float)
    bounds = []
    for level in LEVELS:
        with np.errstate(divide="ignore", invalid="ignore"):
            quantile = median + log_sd * stats.norm.ppf((level - p) / (1 - p))
        bounds.append(np.where(p >= level, -np.inf, quantile))
    return bounds[0], bounds[1]


def interval_probability(zero_probability: ArrayLike) -> np.ndarray:
    """Return the probability that a draw lies in its interval: above 95 % if one bound is 0.

    Examples
    --------
    >>> interval_probability([0.0, 0.02, 0.3, 0.99]).tolist()
    [0.95, 0.95, 0.975, 0.99]
    """
    p = np.asarray(zero_probability, float)
    low, high = LEVELS
    return np.where(p < low, NOMINAL, np.maximum(p, high))
