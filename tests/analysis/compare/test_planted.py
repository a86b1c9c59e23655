"""A planted difference is found, and a planted null is not, at the stated rates."""

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


def most(level: float, sweeps: int) -> float:
    """What a share of that level doesn't surpass in so many sweeps, but once in 1,000 times."""
    return float(stats.binom.ppf(0.999, sweeps, level) / sweeps)


def beyond_doubt(made: pd.DataFrame) -> pd.DataFrame:
    """The pairs of a sweep's one group that differ beyond doubt: all that `compare` does for it."""
    scored = chosen_scores(tune_by_setting(made, METRIC))
    found = pd.DataFrame(compare_pairs(scored, list(dict.fromkeys(made["strategy"])), METRIC))
    return found[holm(found["p"]) <= LEVEL]


def false_alarms(sweeps: int, **law: int) -> float:
    """Share of sweeps with any difference beyond doubt, where all strategies are alike."""
    rngs = map(np.random.default_rng, range(sweeps))
    return sum(not beyond_doubt(simulate_trials(rng, **law)).empty for rng in rngs) / sweeps


@pytest.mark.slow
def test_a_planted_null_is_found_no_more_often_than_stated() -> None:
    assert false_alarms(400) <= most(LEVEL, 400)


@pytest.mark.parametrize("seeds", [5, 12])
def test_a_planted_null_over_a_few_sweeps(seeds: int) -> None:
    assert false_alarms(40, seeds=seeds) <= most(LEVEL, 40)


@pytest.mark.slow
def test_a_planted_difference_is_found_as_often_as_it_should() -> None:
    sweeps, seeds, sd, planted = 300, 5, 0.02, 0.12
    found = np.zeros(sweeps)
    for seed in range(sweeps):
        made = simulate_trials(np.random.default_rng(seed), surface=PEAKED, planted=planted, sd=sd)
        surely = beyond_doubt(made)
        right = (surely["a"] == "s0") & (surely["difference"] > 0)
        found[seed] = right.sum() / (STRATEGIES - 1)
    # Holm finds no less than Bonferroni, whose power the noncentral t tells exactly: differences of
    # two scores scatter by sd * sqrt(2).
    beyond = stats.t.ppf(1 - LEVEL / PAIRS / 2, seeds - 1)
    shift = planted / (sd * np.sqrt(2 / seeds))
    power = stats.nct.sf(beyond, seeds - 1, shift)
    assert 0.5 < power < 0.95  # neither sure nor hopeless
    assert found.mean() >= power - 3.5 * found.std(ddof=1) / np.sqrt(sweeps)


def test_over_settings_a_small_difference_is_sure() -> None:
    made = simulate_trials(np.random.default_rng(0), settings=12, planted=0.05)
    found = compare_trials(made, ComparisonSpec())
    assert found.overall is not None
    assert found.overall.strategies[0] == "s0"
    assert found.overall.ranks.average[0] == 1.0
    table = found.groups[0].pairs
    assert (table.loc[table["a"] == "s0", "p_holm"] <= LEVEL).all()
    assert (table.loc[table["a"] != "s0", "p_holm"] > LEVEL).all()
