"""Do two strategies differ, on the same seeds and batches?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

from fanin.statistics.interval import Interval, mean_interval


@dataclass(frozen=True)
class Paired:
    """A mean difference.

    Attributes
    ----------
    difference
        Mean of a - b, with its 95 % interval.
    p
        Two-sided, of "the mean difference is 0"; NaN for fewer than two pairs.
    pairs
        How many replicates both have.
    """

    difference: Interval
    p: float
    pairs: int


def paired(a: Float64[np.ndarray, " seed"], b: Float64[np.ndarray, " seed"]) -> Paired:
    """Compare two strategies over the replicates where neither is NaN (paired t-test).

    Differences that are all the same tell no spread; they are given the p-value of a sign test, so
    that three seeds can't be beyond doubt because a score is coarse.

    Examples
    --------
    >>> found = paired(np.array([3.0, 5.0, 4.0]), np.array([1.0, 4.0, 2.0]))
    >>> found.pairs, round(found.difference.value, 3), round(found.p, 3)
    (3, 1.667, 0.038)
    """
    both = ~(np.isnan(a) | np.isnan(b))
    d = a[both] - b[both]
    difference = mean_interval(d)
    if len(d) < 2:
        return Paired(difference, np.nan, len(d))
    scale = max(np.abs(a[both]).max(), np.abs(b[both]).max())
    if np.ptp(d) <= len(d) * np.finfo(float).eps * scale:  # the same but for rounding
        same = abs(difference.value) <= len(d) * np.finfo(float).eps * scale
        return Paired(difference, 1.0 if same else 2.0 ** (1 - len(d)), len(d))
    return Paired(difference, float(stats.ttest_1samp(d, 0.0).pvalue), len(d))
