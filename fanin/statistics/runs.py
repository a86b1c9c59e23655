"""What many runs on several settings come to, without trusting their extremes.

Interquartile mean and probability of improvement, as Agarwal et al. (2021, "Deep Reinforcement
Learning at the Edge of the Statistical Precipice") recommend for few runs a setting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from scipy import stats

from fanin.statistics.interval import Interval

RESAMPLES = 2_000
LEVEL = 0.95

Runs = Sequence[Float64[np.ndarray, " run"]]  # of one strategy, one array a setting


def interquartile_mean(runs: Runs) -> Interval:
    """Mean of the middle half of all runs, their settings pooled.

    The interval is a percentile bootstrap that resamples runs within each setting (Agarwal et al.
    2021, section 4.1); with few runs a setting it is rather too short. NaN ends for one run each.

    Examples
    --------
    >>> interquartile_mean([np.array([5.0, 8, 4, 38, 8, 6]), np.array([9.0, 7, 7, 3, 1, 6])]).value
    6.5
    """
    pooled = [each for each in runs if len(each)]
    if not pooled:
        return Interval(np.nan, np.nan, np.nan)
    value = float(stats.trim_mean(np.concatenate(pooled), 0.25))
    if max(map(len, pooled)) < 2:  # nothing to resample
        return Interval(value, np.nan, np.nan)
    rng = np.random.default_rng(0)
    resampled = np.concatenate(
        [each[rng.integers(len(each), size=(RESAMPLES, len(each)))] for each in pooled], axis=1
    )
    means = stats.trim_mean(resampled, 0.25, axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def probability_of_improvement(a: Runs, b: Runs) -> float:
    """Chance that a run of `a` has a larger score than one of `b`, averaged over settings.

    In each setting the Mann-Whitney statistic over all pairs of runs; a tie is half a win (Agarwal
    et al. 2021, section 4.3). NaN where no setting has runs of both.

    Examples
    --------
    >>> probability_of_improvement([np.array([2.0, 3.0])], [np.array([1.0, 3.0])])
    0.625
    """
    shares = [
        stats.mannwhitneyu(x, y, method="asymptotic").statistic / (len(x) * len(y))
        for x, y in zip(a, b, strict=True)
        if len(x) and len(y)
    ]
    return float(np.mean(shares)) if shares else float("nan")
