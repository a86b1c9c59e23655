"""Comparison of strategies: paired differences, ranks over settings, and summaries of runs.

Ranks follow Demsar (2006). Interquartile mean and probability of improvement follow Agarwal et al.
(2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"), who recommend them
for few runs per setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

from fanin.statistics.interval import Interval, mean_interval


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of two strategies.

    Attributes
    ----------
    difference
        Mean of a - b, with its 95 % interval.
    p
        Two-sided p-value of "the mean difference is 0"; NaN for fewer than two pairs.
    pairs
        Number of replicates that have a value for both strategies.
    """

    difference: Interval
    p: float
    pairs: int


def paired_difference(
    a: Float64[np.ndarray, " seed"], b: Float64[np.ndarray, " seed"]
) -> PairedDifference:
    """Compare two strategies over the replicates where neither is NaN (paired t-test).

    If all differences are equal, as for a coarse score, the t-test is undefined; the p-value is
    then that of a sign test.

    Examples
    --------
    >>> result = paired_difference(np.array([3.0, 5.0, 4.0]), np.array([1.0, 4.0, 2.0]))
    >>> result.pairs, round(result.difference.value, 3), round(result.p, 3)
    (3, 1.667, 0.038)
    """
    valid = ~(np.isnan(a) | np.isnan(b))
    d = a[valid] - b[valid]
    difference = mean_interval(d)
    if len(d) < 2:
        return PairedDifference(difference, np.nan, len(d))
    scale = max(np.abs(a[valid]).max(), np.abs(b[valid]).max())
    if np.ptp(d) <= len(d) * np.finfo(float).eps * scale:  # equal up to rounding
        is_zero = abs(difference.value) <= len(d) * np.finfo(float).eps * scale
        return PairedDifference(difference, 1.0 if is_zero else 2.0 ** (1 - len(d)), len(d))
    return PairedDifference(difference, float(stats.ttest_1samp(d, 0.0).pvalue), len(d))


@dataclass(frozen=True)
class Ranks:
    """Average ranks of strategies over settings.

    Attributes
    ----------
    average
        Average rank of each strategy; 1 is best.
    settings
        Number of settings.
    p
        P-value of Friedman's test of "all strategies are equal"; NaN for fewer than three
        strategies.
    critical_difference
        Smallest significant difference of average ranks: Nemenyi's, or for two strategies that of
        the sign test. Infinite if there are too few settings for a significant difference.
    """

    average: Float64[np.ndarray, " strategy"]
    settings: int
    p: float
    critical_difference: float


def average_ranks(scores: Float64[np.ndarray, "setting strategy"], level: float = 0.05) -> Ranks:
    """Rank the strategies within each setting and average the ranks (Demsar 2006, section 3.2).

    Parameters
    ----------
    scores
        Scores without NaN; larger is better. Ties get their average rank.
    level
        Significance level of the critical difference, for all pairs of strategies together.

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
    all_tied = not np.ptp(ranks, axis=1).any()
    p = 1.0 if all_tied else float(stats.friedmanchisquare(*scores.T).pvalue)
    q = stats.studentized_range.ppf(1 - level, strategies, np.inf) / np.sqrt(2)
    critical = q * np.sqrt(strategies * (strategies + 1) / (6 * settings))
    return Ranks(average, settings, p, float(critical))


def _sign_test(settings: int, level: float) -> float:
    """Return the smallest difference of two average ranks that is significant in the sign test.

    The test is exact. Nemenyi's normal approximation is too liberal for few settings: one of two
    equal strategies wins all of four settings with a probability of 1/8.
    """
    wins = np.arange(settings // 2 + 1, settings + 1)
    significant = wins[2 * stats.binom.sf(wins - 1, settings, 0.5) <= level]
    return float(2 * significant[0] - settings) / settings if len(significant) else float("inf")


RESAMPLES = 2_000
LEVEL = 0.95

Runs = Sequence[Float64[np.ndarray, " run"]]  # scores of one strategy, one array per setting


def interquartile_mean(runs: Runs) -> Interval:
    """Return the mean of the middle half of all runs, pooled over settings.

    The interval is a percentile bootstrap that resamples runs within each setting (Agarwal et al.
    2021, section 4.1). It is too narrow for few runs per setting, and NaN for one run per setting.

    Examples
    --------
    >>> interquartile_mean([np.array([5.0, 8, 4, 38, 8, 6]), np.array([9.0, 7, 7, 3, 1, 6])]).value
    6.5
    """
    pooled = [setting_runs for setting_runs in runs if len(setting_runs)]
    if not pooled:
        return Interval(np.nan, np.nan, np.nan)
    value = float(stats.trim_mean(np.concatenate(pooled), 0.25))
    if max(map(len, pooled)) < 2:  # nothing to resample
        return Interval(value, np.nan, np.nan)
    rng = np.random.default_rng(0)
    resampled = np.concatenate(
        [run[rng.integers(len(run), size=(RESAMPLES, len(run)))] for run in pooled], axis=1
    )
    means = stats.trim_mean(resampled, 0.25, axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def probability_of_improvement(a: Runs, b: Runs) -> float:
    """Return the probability that a run of `a` has a larger score than one of `b`.

    It is the Mann-Whitney statistic over all pairs of runs of a setting, with a tie as half a win,
    averaged over settings (Agarwal et al. 2021, section 4.3). NaN if no setting has runs of both.

    Examples
    --------
    >>> probability_of_improvement([np.array([2.0, 3.0])], [np.array([1.0, 3.0])])
    0.625
    """
    probabilities = [
        stats.mannwhitneyu(x, y, method="asymptotic").statistic / (len(x) * len(y))
        for x, y in zip(a, b, strict=True)
        if len(x) and len(y)
    ]
    return float(np.mean(probabilities)) if probabilities else float("nan")
