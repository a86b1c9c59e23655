"""Distribution of one draw's moment: exactly 0 with some probability, otherwise log-gamma.

A moment is exactly 0 in the draws in which a layer is dead. With p = `zero_probability`, the
logarithm of the other draws has the standard deviation `log_sd` and the skewness `log_skew`:
log m = c + log_sd Z, with Z of `fanin.statistics.log_gamma`. So m is log-normal if `log_skew` is 0,
and can be gamma or chi-squared. c = log(value / (1 - p)) - log E[exp(log_sd Z)], so `value` is E[m]
over all draws; for a log-normal m, the last term is log_sd^2 / 2. A log-moment of -inf stands for a
moment of 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from fanin.statistics import log_gamma

NOMINAL = 0.95
LEVELS = (1 - NOMINAL) / 2, (1 + NOMINAL) / 2
Z = float(stats.norm.ppf(LEVELS[1]))
SHAPE = ("log_sd", "zero_probability", "log_skew")
"""Columns of the `predictions` table that describe the distribution, besides `value`."""


def log_mean_excess(log_sd: ArrayLike, log_skew: ArrayLike = 0.0) -> np.ndarray:
    """Return log E[m] - E[log m] of the draws that are not 0.

    Examples
    --------
    >>> float(log_mean_excess(1.0)), round(float(log_mean_excess(1.0, -0.5)), 3)
    (0.5, 0.433)
    """
    return log_gamma.cumulant_function(log_sd, log_skew)


def predicted_mean_log(
    log_value: ArrayLike,
    log_sd: ArrayLike,
    zero_probability: ArrayLike,
    log_skew: ArrayLike = 0.0,
) -> np.ndarray:
    """Return the mean logarithm of the draws that are not 0; NaN if all draws are 0."""
    p = np.asarray(zero_probability, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(log_value - np.log1p(-p) - log_mean_excess(log_sd, log_skew))


def log_quantile(
    level: ArrayLike, mean_log: ArrayLike, log_sd: ArrayLike, log_skew: ArrayLike = 0.0
) -> np.ndarray:
    """Return the logarithm of a quantile of the draws that are not 0.

    Parameters
    ----------
    level
        Probability of a draw below the quantile.
    mean_log
        Result of `predicted_mean_log`.
    log_sd, log_skew
        Standard deviation and skewness of the log-moment.
    """
    z = log_gamma.from_normal(stats.norm.ppf(level), log_skew)
    with np.errstate(invalid="ignore"):
        return np.asarray(mean_log) + np.asarray(log_sd) * z


def log_interval(
    mean_log: ArrayLike,
    log_sd: ArrayLike,
    zero_probability: ArrayLike,
    log_skew: ArrayLike = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2.5 % and 97.5 % quantiles of one draw's log-moment.

    Parameters
    ----------
    mean_log
        Result of `predicted_mean_log`.
    log_sd, zero_probability, log_skew
        Standard deviation and skewness of the log-moment of a draw that is not 0, and probability
        of 0.

    Examples
    --------
    >>> [float(bound) for bound in log_interval(0.0, 1.0, 0.5)]  # 0.475 of the draws are above 1
    [-inf, 1.6448536269514722]
    >>> [round(float(bound), 2) for bound in log_interval(0.0, 1.0, 0.0)]
    [-1.96, 1.96]
    >>> [round(float(bound), 2) for bound in log_interval(0.0, 1.0, 0.0, -1.0)]
    [-2.37, 1.52]
    """
    p = np.asarray(zero_probability, float)
    bounds = []
    for level in LEVELS:
        with np.errstate(divide="ignore", invalid="ignore"):
            quantile = log_quantile((level - p) / (1 - p), mean_log, log_sd, log_skew)
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
