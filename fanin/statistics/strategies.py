"""Strategies compared: in pairs, by ranks over many settings, by all of their runs.

Ranks as Demsar (2006) has them; interquartile mean and probability of improvement as Agarwal et al.
(2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice") recommend for few
runs a setting.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Ranks:
    """Average ranks.

    Attributes
    ----------
    average
        Of each strategy; 1 is best.
    settings
        Over how many.
    p
        Friedman's test of "all strategies are alike"; NaN for fewer than three.
    critical_difference
        Average ranks that differ by less are not told apart, at the level: Nemenyi's; of two
        strategies the sign test's, infinite where so few settings can tell nothing.
    """

    average: Float64[np.ndarray, " strategy"]
    settings: int
    p: float
    critical_difference: float


def average_ranks(scores: Float64[np.ndarray, "setting strategy"], level: float = 0.05) -> Ranks:
    """Rank strategies within each setting, and average (Demsar 2006, section 3.2).

    Parameters
    ----------
    scores
        Larger is better; ties share their ranks. No NaN.
    level
        Of the critical difference, for all pairs of strategies together.

    Examples
    --------
    >>> average_ranks(np.array([[0.9, 0.8, 0.7], [0.6, 0.7, 0.5]])).average.tolist()
    [1.5, 1.5, 3.0]
    """
    settings, strategies = scores.shape
    ranks = stats.rankdata(-scores, axis=1)
    average = ranks.mean(axis=0)
    if strategies < 3:
        return Ranks(average, settings, float("nan"), _sign_test(settings, level))
    tied = not np.ptp(ranks, axis=1).any()
    p = 1.0 if tied else float(stats.friedmanchisquare(*scores.T).pvalue)
    q = stats.studentized_range.ppf(1 - level, strategies, np.inf) / np.sqrt(2)
    critical = q * np.sqrt(strategies * (strategies + 1) / (6 * settings))
    return Ranks(average, settings, p, float(critical))


def _sign_test(settings: int, level: float) -> float:
    """Least difference of two average ranks that coin tosses reach no more often than `level`.

    Exact, for Nemenyi's normal approximation is too bold with few settings: winning all of four
    happens to one of two equals in one case of eight.
    """
    wins = np.arange(settings // 2 + 1, settings + 1)
    rare = wins[2 * stats.binom.sf(wins - 1, settings, 0.5) <= level]
    return float(2 * rare[0] - settings) / settings if len(rare) else float("inf")


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
