"""Simulated sweeps: the rates of false positives and of detected differences are as stated."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated_trials import PEAKED, simulate_trials

from analysis.compare.comparison import compare_pairs, compare_trials
from analysis.compare.spec import METRICS, ComparisonSpec
from analysis.compare.tuning import chosen_scores, tune_by_setting
from fanin.statistics.holm import holm

METRIC = METRICS["test_accuracy"]
LEVEL = 0.05
STRATEGIES = 8
PAIRS = STRATEGIES * (STRATEGIES - 1) // 2


def largest_share(level: float, sweeps: int) -> float:
    """Return the 99.9 % quantile of the share of rejections at this level."""
    return float(stats.binom.ppf(0.999, sweeps, level) / sweeps)


def significant_pairs(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the significantly different pairs of a sweep with one group."""
    scored = chosen_scores(tune_by_setting(trials, METRIC))
    pairs = pd.DataFrame(compare_pairs(scored, list(dict.fromkeys(trials["strategy"])), METRIC))
    return pairs[holm(pairs["p"]) <= LEVEL]


def false_alarms(sweeps: int, **options: int) -> float:
    """Return the share of sweeps with a significant difference between equal strategies."""
    rngs = map(np.random.default_rng, range(sweeps))
    return (
        sum(not significant_pairs(simulate_trials(rng, **options)).empty for rng in rngs) / sweeps
    )


@pytest.mark.slow
def test_false_alarm_rate_over_many_sweeps() -> None:
    assert false_alarms(400) <= largest_share(LEVEL, 400)


@pytest.mark.parametrize("seeds", [5, 12])
def test_false_alarm_rate_over_a_few_sweeps(seeds: int) -> None:
    assert false_alarms(40, seeds=seeds) <= largest_share(LEVEL, 40)


@pytest.mark.slow
def test_power_is_at_least_that_of_bonferroni() -> None:
    sweeps, seeds, sd, planted = 300, 5, 0.02, 0.12
    detected = np.zeros(sweeps)
    for seed in range(sweeps):
        trials = simulate_trials(
            np.random.default_rng(seed), surface=PEAKED, planted=planted, sd=sd
        )
        pairs = significant_pairs(trials)
        correct = (pairs["a"] == "s0") & (pairs["difference"] > 0)
        detected[seed] = correct.sum() / (STRATEGIES - 1)
    # Holm's power is at least Bonferroni's, which follows from the noncentral t distribution: the
    # difference of two scores has a standard deviation of sd * sqrt(2).
    critical = stats.t.ppf(1 - LEVEL / PAIRS / 2, seeds - 1)
    shift = planted / (sd * np.sqrt(2 / seeds))
    power = stats.nct.sf(critical, seeds - 1, shift)
    assert 0.5 < power < 0.95  # neither certain nor impossible
    assert detected.mean() >= power - 3.5 * detected.std(ddof=1) / np.sqrt(sweeps)


def test_a_small_difference_is_significant_over_many_settings() -> None:
    trials = simulate_trials(np.random.default_rng(0), settings=12, planted=0.05)
    comparison = compare_trials(trials, ComparisonSpec())
    assert comparison.overall is not None
    assert comparison.overall.strategies[0] == "s0"
    assert comparison.overall.ranks.average[0] == 1.0
    table = comparison.groups[0].pairs
    assert (table.loc[table["a"] == "s0", "p_holm"] <= LEVEL).all()
    assert (table.loc[table["a"] != "s0", "p_holm"] > LEVEL).all()
