"""Strategies ranked over many settings (Demsar 2006)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats


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
