"""Confidence interval of a mean: Student's t for few values, BCa bootstrap for more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy import stats

MIN_BOOTSTRAP = 10  # a bootstrap of fewer values is too inaccurate
RESAMPLES = 9_999
Statistic = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Interval:
    """Estimate with a confidence interval.

    Attributes
    ----------
    value
        The estimate.
    low, high
        Ends of the interval; NaN for a single value.
    """

    value: float
    low: float
    high: float


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of independent values with a confidence interval.

    The interval is Student's t for fewer than 10 values and a BCa bootstrap for 10 or more.

    Parameters
    ----------
    values
        One finite value per replicate. An empty array gives NaN.
    level
        Confidence level.

    Returns
    -------
    Interval
        Mean and interval.

    Examples
    --------
    >>> interval = mean_interval([1.0, 2.0, 3.0])
    >>> interval.value, round(interval.low, 3), round(interval.high, 3)
    (2.0, -0.484, 4.484)
    """
    x = np.asarray(values, float)
    if len(x) >= MIN_BOOTSTRAP:
        return bca(x, np.mean, level)
    if not len(x):
        return Interval(np.nan, np.nan, np.nan)
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, np.nan, np.nan)
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)
    return Interval(mean, mean - half, mean + half)


def bca(
    values: Float64[np.ndarray, " value"], statistic: Statistic, level: float = 0.95
) -> Interval:
    """Return a bias-corrected and accelerated bootstrap interval (Efron 1987) with a fixed seed.

    Parameters
    ----------
    values
        Independent values.
    statistic
        Function of the values, vectorized over `axis`.
    level
        Confidence level.
    """
    value = float(statistic(values, axis=-1))
    if np.ptp(values) == 0:  # the acceleration of equal values is undefined
        return Interval(value, value, value)
    result = stats.bootstrap(
        (values,),
        statistic,
        confidence_level=level,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(0),
    )
    return Interval(value, *map(float, result.confidence_interval))
