"""Tests of the distribution of moments that are exactly 0 in some draws."""

from __future__ import annotations

import numpy as np
import pytest
from test_agreement import layer_verdict, sweep_verdicts

from fanin.statistics.coverage import coverage, inside
from fanin.statistics.draw_distribution import (
    interval_probability,
    log_interval,
    predicted_mean_log,
)
from fanin.statistics.pit import probability_transform, uniformity

VALUE, LOG_SD = 3.0, 0.8


def sample(n: int, zero_probability: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    moments = rng.lognormal(np.log(VALUE / (1 - zero_probability)) - LOG_SD**2 / 2, LOG_SD, size=n)
    return np.where(rng.random(n) < zero_probability, 0.0, moments)


def log_columns(moments: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    with np.errstate(divide="ignore"):
        logs = np.log(moments)
    return logs, np.full(logs.shape, np.log(VALUE)), np.full(logs.shape, LOG_SD), p


@pytest.mark.parametrize("p", [0.0, 0.01, 0.024, 0.026, 0.3, 0.9, 0.98])
def test_interval_bounds_are_quantiles(p: float) -> None:
    n = 100_000
    moments = sample(n, p)
    low, high = np.exp(log_interval(predicted_mean_log(np.log(VALUE), LOG_SD, p), LOG_SD, p))
    for bound, level in ((low, 0.025), (high, 0.975)):
        # P(m < q) <= level <= P(m <= q) defines a quantile of any distribution.
        error = 4 * (level * (1 - level) / n) ** 0.5
        assert (moments < bound).mean() - error <= level <= (moments <= bound).mean() + error
    assert (low == 0) == (p >= 0.025)
    share = inside(*log_columns(moments, p)).mean()
    expected = float(interval_probability(p))
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / n) ** 0.5)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.98])
def test_the_transform_of_a_distribution_with_zeros_is_uniform(p: float) -> None:
    n, label = 4000, np.arange(4000)
    transformed = probability_transform(*log_columns(sample(n, p), p))
    assert transformed.min() >= 0
    # Kolmogorov's 99.9 % quantile.
    assert uniformity(transformed, label, label).distance < 1.95 / n**0.5
    half = probability_transform(*log_columns(sample(n, p), p / 2))
    # A prediction with half the probability misplaces about p / 2 of the draws.
    assert uniformity(half, label, label).distance > p / 2 - 1.95 / n**0.5


def test_right_intervals_with_zeros_are_not_a_miss() -> None:
    p, n = 0.3, 20_000
    hits = inside(*log_columns(sample(n, p), p))
    label = np.arange(n)
    assert coverage(hits, label, label, interval_probability(p)).expected == pytest.approx(0.975)
    assert not coverage(hits, label, label, interval_probability(p)).is_outside(0.005)
    assert coverage(hits, label, label).is_outside(0.02)  # 97.5 % is more than 95 + 2 %


def test_the_ratio_of_draws_with_zeros_is_that_of_the_mean_over_all_draws() -> None:
    draws = [0.0, 0.0, 1.0, np.e**2, np.e**3]
    row = layer_verdict(draws, VALUE, LOG_SD, zero_probability=0.3)
    assert row["kind"] == "tested"
    assert row["log_ratio"] == pytest.approx(5 / 3 + LOG_SD**2 / 2 + np.log(3 / 5) - np.log(VALUE))
    # The log of the share of draws that are not 0 has the variance p / (1 - p) / 5, with the larger
    # of the predicted and the measured probability, 2 / 5.
    assert row["log_ratio_se"] ** 2 == pytest.approx(
        np.var([0, 2, 3], ddof=1) / 3 + (2 / 5) / (3 / 5) / 5
    )
    assert np.isnan(row["sd_ratio"])


def test_right_predictions_with_zeros_rarely_disagree() -> None:
    """At most 5 % of sweeps of 40 layers have a false positive; the standard error is 2.2 %."""
    p, trials, layers = 0.3, 100, 40
    wrong = []
    for trial in range(trials):
        moments = sample(layers * 50, p, trial).reshape(layers, 50, 1)
        table = sweep_verdicts(moments, np.array([VALUE]), np.array([LOG_SD]), zero_probability=p)
        assert set(table["kind"]) == {"tested"}
        wrong.append((table["verdict"] == "disagrees").any())
    assert np.mean(wrong) < 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


@pytest.mark.parametrize(("measured", "verdict"), [(0.3, "agrees"), (0.5, "disagrees")])
def test_a_wrong_probability_of_zero_disagrees(measured: float, verdict: str) -> None:
    n = 20_000
    draws = sample(n, 0.3)
    if measured != 0.3:  # the draws that are not 0 keep their distribution
        draws[: int(n * (measured - 0.3) / 0.7)] = 0.0
    row = layer_verdict(draws.tolist(), VALUE, LOG_SD, zero_probability=0.3)
    assert row["verdict"] == verdict


@pytest.mark.parametrize(
    ("draws", "value", "zero_probability", "verdict"),
    [
        ([0.0] * 3, 1.0, 0.9, "not_tested"),  # has a probability of 0.73
        ([0.0] * 3, 1.0, 0.1, "disagrees"),  # 0.001
        ([0.0] * 99 + [1.0], 0.0, 1.0, "not_tested"),  # all 64 draws of a theory: 0.52
        ([0.0] * 50 + [1.0] * 50, 0.0, 1.0, "disagrees"),
        ([1.0, 2.0], 0.0, 1.0, "disagrees"),
    ],
)
def test_zeros_disagree_only_if_they_are_improbable(
    draws: list[float], value: float, zero_probability: float, verdict: str
) -> None:
    log_sd = 0.0 if value == 0 else LOG_SD
    row = layer_verdict(draws, value, log_sd, zero_probability=zero_probability)
    assert (row["kind"], row["verdict"]) == ("zero", verdict)
