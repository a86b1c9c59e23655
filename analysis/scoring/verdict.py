"""Verdicts: the interval of an effect against the smallest effect that counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.scoring.claims import Claim, Direction, Method, Scoring
from fanin.errors import FaninError, suggest
from fanin.statistics.interval import Interval

Verdict = Literal["reproduced", "contradicted", "undecided"]
# Computes an effect from the cells: one value per seed, indexed by seed.
Effect = Callable[[pd.DataFrame], pd.Series]
SEED = "seed"
NO_INTERVAL = Interval(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class ScoredClaim:
    """A claim with its measured effect.

    Attributes
    ----------
    name, claim
        The claim.
    interval
        Mean (or median) over seeds and 95 % interval of the effect; the ends are NaN if there is
        no interval (`effect_interval`).
    n_seeds
        Number of seeds.
    verdict
        The verdict.
    """

    name: str
    claim: Claim
    interval: Interval
    n_seeds: int
    verdict: Verdict


def score_claims(
    scoring: Scoring, effects: Mapping[str, Effect], cells: pd.DataFrame
) -> list[ScoredClaim]:
    """Score all claims of a study on its cells."""
    return [
        score_claim(name, claim, effects, cells, scoring.seeds)
        for name, claim in scoring.claims.items()
    ]


def score_claim(
    name: str, claim: Claim, effects: Mapping[str, Effect], cells: pd.DataFrame, n_required: int
) -> ScoredClaim:
    """Score one claim.

    Parameters
    ----------
    name, claim
        The claim.
    effects
        Effects of the study's module, by name.
    cells
        Design and outcome of each cell, with a column `seed`.
    n_required
        Number of seeds without which the claim is undecided.

    Raises
    ------
    FaninError
        The module has no effect of this name.
    """
    if claim.effect not in effects:
        raise FaninError(
            f"claim {name}: no effect {claim.effect}; {suggest(claim.effect, set(effects))}"
        )
    values = effects[claim.effect](cells).to_numpy(float)
    interval = effect_interval(values, claim.interval)
    verdict = decide(interval, claim.direction, claim.smallest)
    if len(values) < n_required:
        verdict = "undecided"
    return ScoredClaim(name, claim, interval, len(values), verdict)


def effect_interval(values: np.ndarray, method: Method, level: float = 0.95) -> Interval:
    """Return the mean or median over seeds with its interval.

    The ends are NaN if a value is not finite or if there are too few values: 2 for `t`, 6 for a
    95 % interval of the median.

    Examples
    --------
    >>> interval = effect_interval(np.array([1.0, 2.0, 3.0]), "t")
    >>> round(interval.low, 2), round(interval.high, 2)
    (-0.48, 4.48)
    >>> effect_interval(np.array([0.0, 1.0, 1.0, 1.0, 1.0, 1.0]), "median")
    Interval(value=1.0, low=0.0, high=1.0)
    """
    if not len(values) or not np.isfinite(values).all():
        return NO_INTERVAL
    if method == "median":
        return _median_interval(values, level)
    if len(values) < 2:
        return NO_INTERVAL
    mean = float(values.mean())
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def _median_interval(values: np.ndarray, level: float) -> Interval:
    """Return the median with the narrowest interval of order statistics that has the level."""
    ordered, median = np.sort(values), float(np.median(values))
    # P(median < k-th smallest value) = P(fewer than k values lie below the median).
    outside = int(stats.binom.ppf((1 - level) / 2, len(values), 0.5))
    if stats.binom.cdf(outside, len(values), 0.5) > (1 - level) / 2:
        outside -= 1
    if outside < 0:
        return Interval(median, np.nan, np.nan)
    return Interval(median, float(ordered[outside]), float(ordered[-1 - outside]))


def decide(interval: Interval, direction: Direction, smallest: float) -> Verdict:
    """Compare an interval with the smallest effect that counts.

    A claim is reproduced if the whole interval meets its condition, contradicted if no part of the
    interval does, and undecided otherwise.

    Examples
    --------
    >>> decide(Interval(0.8, 0.6, 1.0), "above", 0.5)
    'reproduced'
    >>> decide(Interval(0.8, 0.4, 1.2), "above", 0.5)
    'undecided'
    >>> decide(Interval(0.1, 0.0, 0.2), "above", 0.5)
    'contradicted'
    """
    low, high = interval.low, interval.high
    if not (np.isfinite(low) and np.isfinite(high)):
        return "undecided"
    below = -np.inf if direction == "below" else smallest if direction == "above" else -smallest
    above = np.inf if direction == "above" else smallest
    if low > below and high < above:
        return "reproduced"
    return "contradicted" if high <= below or low >= above else "undecided"


def seeds_needed(sd: float, margin: float, power: float = 0.9, level: float = 0.95) -> int:
    """Return the number of seeds for which the interval excludes the smallest effect that counts.

    Parameters
    ----------
    sd
        Standard deviation of the effect over seeds, from a pilot.
    margin
        Distance of the expected effect from the smallest effect that counts.
    power
        Probability that the claim is decided if the effect is as expected.
    level
        Confidence level of the interval.

    Examples
    --------
    >>> seeds_needed(sd=0.1, margin=0.2)
    5
    """
    for n in range(2, 1000):
        noncentral = margin / sd * np.sqrt(n) if sd else np.inf
        quantile = stats.t.ppf((1 + level) / 2, n - 1)
        if np.isinf(noncentral) or stats.nct.sf(quantile, n - 1, noncentral) >= power:
            return n
    raise FaninError(f"more than 1,000 seeds are needed for sd {sd:g} and margin {margin:g}")
