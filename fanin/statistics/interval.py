"""A mean with its 95 % interval: Student's t for few values, BCa bootstrap for more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy import stats

FEW = 10  # below it a bootstrap has too little to resample from
RESAMPLES = 9_999
Statistic = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; NaN ends where one value tells no spread.

    Attributes
    ----------
    value
        The estimate.
    low, high
        Ends of the interval.
    """

    value: float
    low: float
    high: float


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of independent values: t below 10 of them, BCa bootstrap from there on.

    Parameters
    ----------
    values
        One per replicate, finite. None gives NaN.
    level
        Of the interval.

    Examples
    --------
    >>> found = mean_interval([1.0, 2.0, 3.0])
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (2.0, -0.484, 4.484)
    """
    x = np.asarray(values, float)
    if len(x) >= FEW:
        return bca(x, np.mean, level)
    if not len(x):
        return Interval(np.nan, np.nan, np.nan)
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, np.nan, np.nan)
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)
    return Interval(mean, mean - half, mean + half)


def bca(values: Float64[np.ndarray, " value"], of: Statistic, level: float = 0.95) -> Interval:
    """Bias-corrected and accelerated bootstrap (Efron 1987), the same at every call.

    Parameters
    ----------
    values
        Independent.
    of
        The statistic, vectorized over `axis`.
    level
        Of the interval.
    """
    value = float(of(values, axis=-1))
    if np.ptp(values) == 0:  # no resample differs: no acceleration can be told
        return Interval(value, value, value)
    found = stats.bootstrap(
        (values,),
        of,
        confidence_level=level,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(0),
    )
    return Interval(value, *map(float, found.confidence_interval))
