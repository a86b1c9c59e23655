"""Tests of paired differences, ranks and summaries of runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_interval import DEXTRO, LAEVO

from fanin.statistics.strategies import (
    average_ranks,
    interquartile_mean,
    paired_difference,
    probability_of_improvement,
)


def test_paired_difference_of_students_sleep_data() -> None:
    # Student 1908: t = 4.0621 with 9 degrees of freedom, p = 0.002833, mean 1.58.
    result = paired_difference(LAEVO, DEXTRO)
    assert result.difference.value == pytest.approx(1.58)
    assert result.p == pytest.approx(0.002833, abs=5e-7)
    assert result.pairs == 10


def test_pairs_need_both_seeds() -> None:
    a, b = np.array([1.0, 2.0, np.nan, 4.0]), np.array([0.0, np.nan, 2.0, 2.0])
    result = paired_difference(a, b)
    assert (result.pairs, result.difference.value) == (2, 1.5)
    assert np.isnan(paired_difference(a[:2], b[:2]).p)


def test_equal_differences_use_the_sign_test() -> None:
    a = np.array([0.912, 0.905, 0.921])
    assert paired_difference(a + 0.01, a).p == 0.25  # sign test: 2 / 2^3
    assert paired_difference(a, a).p == 1.0
    assert paired_difference(a, a).difference.value == 0.0


# AUC of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets (Demsar 2006, table 6). The last two
# scores of "voting" are both printed as 0.975, but have different ranks.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.97501, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)
# Seconds for three methods of rounding first base, 22 players (Hollander & Wolfe 1973, p. 140).
ROUNDING = np.array(
    [
        *([5.40, 5.50, 5.55], [5.85, 5.70, 5.75], [5.20, 5.60, 5.50], [5.55, 5.50, 5.40]),
        *([5.90, 5.85, 5.70], [5.45, 5.55, 5.60], [5.40, 5.40, 5.35], [5.45, 5.50, 5.35]),
        *([5.25, 5.15, 5.00], [5.85, 5.80, 5.70], [5.25, 5.20, 5.10], [5.65, 5.55, 5.45]),
        *([5.60, 5.35, 5.45], [5.05, 5.00, 4.95], [5.50, 5.50, 5.40], [5.45, 5.55, 5.50]),
        *([5.55, 5.55, 5.35], [5.45, 5.50, 5.55], [5.50, 5.45, 5.25], [5.65, 5.60, 5.40]),
        *([5.70, 5.65, 5.55], [6.30, 6.30, 6.25]),
    ]
)


def test_average_ranks_of_demsars_example() -> None:
    result = average_ranks(DEMSAR)
    assert result.average.round(3).tolist() == [3.143, 2.0, 2.893, 1.964]
    assert result.settings == 14


def test_critical_difference_of_demsars_example() -> None:
    # Section 3.2.2: 1.25 at 5 % for four classifiers on 14 data sets, 1.12 at 10 %.
    assert average_ranks(DEMSAR).critical_difference == pytest.approx(1.25, abs=0.005)
    assert average_ranks(DEMSAR, level=0.1).critical_difference == pytest.approx(1.12, abs=0.005)


def test_friedman_matches_hollander_and_wolfe() -> None:
    # Chi-squared 11.1429 on 2 degrees of freedom, p = 0.003805.
    assert average_ranks(-ROUNDING).p == pytest.approx(0.003805, abs=5e-7)


def test_two_strategies_have_no_friedman_test() -> None:
    result = average_ranks(np.array([[1.0, 2.0], [1.0, 1.0], [0.0, 3.0]]))
    assert result.average.tolist() == pytest.approx([2.5 / 3 + 1, 3.5 / 3])
    assert np.isnan(result.p)


@pytest.mark.parametrize("settings", range(2, 21))
def test_the_critical_difference_keeps_the_level(settings: int) -> None:
    critical = average_ranks(np.zeros((settings, 2))).critical_difference
    significant = [
        wins for wins in range(settings + 1) if abs(2 * wins - settings) / settings >= critical
    ]
    probability = sum(math.comb(settings, wins) for wins in significant) / 2**settings
    assert probability <= 0.05
    largest_other = max(set(range(settings + 1)) - set(significant), default=0)
    next_probability = 2 * math.comb(settings, largest_other) / 2**settings
    assert probability + next_probability > 0.05


def test_two_strategies_by_the_sign_test() -> None:
    # One of two equal strategies wins five of five with probability 2/32, six of six with 2/64.
    assert average_ranks(np.zeros((5, 2))).critical_difference == np.inf
    assert average_ranks(np.zeros((6, 2))).critical_difference == 1.0
    # 15 or more of 20: p = 0.0414.
    assert average_ranks(np.zeros((20, 2))).critical_difference == (15 - 5) / 20


def test_strategies_that_always_tie_are_equal() -> None:
    result = average_ranks(np.ones((4, 3)))
    assert result.p == 1.0
    assert result.average.tolist() == [2.0, 2.0, 2.0]


# Permeability of the human chorioamnion at term, and at 12 to 26 weeks (Hollander & Wolfe 1973).
TERM = np.array([0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46])
EARLY = np.array([1.15, 0.88, 0.90, 0.74, 1.21])


def test_probability_of_improvement_matches_mann_whitney() -> None:
    # U is 35 of 10 x 5 pairs.
    assert probability_of_improvement([TERM], [EARLY]) == pytest.approx(35 / 50)
    assert probability_of_improvement([EARLY], [TERM]) == pytest.approx(15 / 50)


def test_settings_have_equal_weight() -> None:
    a = [np.array([2.0, 2.0]), np.array([1.0])]
    b = [np.array([1.0]), np.array([2.0] * 9)]
    assert probability_of_improvement(a, b) == 0.5
    assert np.isnan(probability_of_improvement([np.array([])], [TERM]))


def test_a_run_without_a_score_loses_to_all_others() -> None:
    assert probability_of_improvement([np.array([-np.inf, 1.0])], [np.array([0.0])]) == 0.5
    assert probability_of_improvement([np.array([-np.inf])], [np.array([-np.inf])]) == 0.5


def test_interquartile_mean_of_twelve_runs() -> None:
    # The middle six of 1, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9, 38: (5 + 6 + 6 + 7 + 7 + 8) / 6 = 6.5.
    runs = [np.array([5.0, 8, 4, 38, 8, 6]), np.array([9.0, 7, 7, 3, 1, 6])]
    assert interquartile_mean(runs).value == 6.5


def test_interquartile_mean_resamples_within_settings() -> None:
    # The runs of each setting are equal, so the interval has no width, though settings differ.
    interval = interquartile_mean([np.full(5, 1.0), np.full(5, 3.0)])
    assert (interval.value, interval.low, interval.high) == (2.0, 2.0, 2.0)
    rng = np.random.default_rng(0)
    normal = interquartile_mean([rng.standard_normal(50)])
    # A 25 % trimmed mean of normal values has about 1.0955 times the mean's standard error.
    assert (normal.high - normal.low) / 2 == pytest.approx(1.96 * 1.0955 / np.sqrt(50), rel=0.25)
    assert np.isnan(interquartile_mean([np.array([1.0]), np.array([2.0])]).low)
