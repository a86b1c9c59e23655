"""Interquartile mean and probability of improvement."""

from __future__ import annotations

import numpy as np
import pytest

from fanin.statistics.runs import interquartile_mean, probability_of_improvement

# Permeability of the human chorioamnion at term, and at 12 to 26 weeks (Hollander & Wolfe 1973).
TERM = np.array([0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46])
EARLY = np.array([1.15, 0.88, 0.90, 0.74, 1.21])


def test_probability_of_improvement_is_mann_whitneys() -> None:
    # Their U is 35 of 10 x 5 pairs.
    assert probability_of_improvement([TERM], [EARLY]) == pytest.approx(35 / 50)
    assert probability_of_improvement([EARLY], [TERM]) == pytest.approx(15 / 50)


def test_settings_weigh_alike_however_many_runs_they_have() -> None:
    surely, never = (np.array([2.0, 2.0]), np.array([1.0])), (np.array([1.0]), np.array([2.0] * 9))
    found = probability_of_improvement([surely[0], never[0]], [surely[1], never[1]])
    assert found == 0.5
    assert np.isnan(probability_of_improvement([np.array([])], [TERM]))


def test_a_run_without_a_score_loses_to_all_that_have_one() -> None:
    assert probability_of_improvement([np.array([-np.inf, 1.0])], [np.array([0.0])]) == 0.5
    assert probability_of_improvement([np.array([-np.inf])], [np.array([-np.inf])]) == 0.5


def test_interquartile_mean_by_hand() -> None:
    # Of 1, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9, 38 the middle six: (5 + 6 + 6 + 7 + 7 + 8) / 6 = 6.5.
    runs = [np.array([5.0, 8, 4, 38, 8, 6]), np.array([9.0, 7, 7, 3, 1, 6])]
    assert interquartile_mean(runs).value == 6.5


def test_its_interval_resamples_within_settings() -> None:
    # Settings far apart, runs within each alike: runs tell no spread, though pooled they differ.
    found = interquartile_mean([np.full(5, 1.0), np.full(5, 3.0)])
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    rng = np.random.default_rng(0)
    wide = interquartile_mean([rng.standard_normal(50)])
    # A 25 % trimmed mean of normal values has 1.0955 times the mean's standard error, about.
    assert (wide.high - wide.low) / 2 == pytest.approx(1.96 * 1.0955 / np.sqrt(50), rel=0.25)
    assert np.isnan(interquartile_mean([np.array([1.0]), np.array([2.0])]).low)
