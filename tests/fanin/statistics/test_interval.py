"""Tests of confidence intervals against published examples and simulations."""

from __future__ import annotations

import numpy as np
import pytest

from fanin.statistics.interval import MIN_BOOTSTRAP, bca, mean_interval

# Extra hours of sleep by two drugs, ten patients (Student 1908, table I).
LAEVO = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
DEXTRO = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
# Spatial test data A (Efron & Tibshirani 1993, table 14.1).
SPATIAL = np.array(
    [
        *(48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6),
        *(0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41),
    ],
    float,
)


def test_few_values_use_student_t() -> None:
    interval = mean_interval([1.9, 0.8, 1.1, 0.1])
    # The 97.5 % quantile of t(3) is 3.18245.
    half = 3.18245 * np.sqrt(((0.925**2 + 0.175**2 + 0.125**2 + 0.875**2) / 3) / 4)
    assert interval.value == pytest.approx(0.975)
    assert interval.high - interval.value == pytest.approx(half, rel=1e-5)
    assert interval.value - interval.low == pytest.approx(half, rel=1e-5)


def test_bca_matches_the_published_example() -> None:
    # Efron & Tibshirani 1993, section 14.2: variance 171.5, 90 % BCa interval (115.8, 259.6), from
    # 2,000 resamples. The standard deviations of the ends (over 60 sets of resamples) are 1.9 and
    # 3.4 for 2,000 resamples, and 0.85 and 1.5 for 9,999 resamples as here.
    interval = bca(SPATIAL, np.var, level=0.90)
    assert interval.value == pytest.approx(171.5, abs=0.05)
    assert interval.low == pytest.approx(115.8, abs=3.5 * np.hypot(1.9, 0.85))
    assert interval.high == pytest.approx(259.6, abs=3.5 * np.hypot(3.4, 1.5))


def test_ten_or_more_values_use_bca() -> None:
    assert len(LAEVO) == MIN_BOOTSTRAP
    interval = mean_interval(LAEVO - DEXTRO)
    assert interval == bca(LAEVO - DEXTRO, np.mean)
    # One patient gained 4.6 hours, so the interval is asymmetric, unlike Student's t.
    assert interval.high - interval.value > 1.2 * (interval.value - interval.low)


@pytest.mark.parametrize("size", [5, 20])
def test_intervals_have_their_nominal_coverage(size: int) -> None:
    rng = np.random.default_rng(0)
    trials = 200
    intervals = [mean_interval(rng.standard_normal(size)) for _ in range(trials)]
    coverage = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    # BCa of a normal mean is too narrow by sqrt((n - 1) / n) and uses z, not t: 93.1 % for n = 20.
    nominal = 0.95 if size < MIN_BOOTSTRAP else 0.931
    assert abs(coverage - nominal) < 3.5 * np.sqrt(nominal * (1 - nominal) / trials)


def test_intervals_without_spread() -> None:
    single, empty = mean_interval([2.0]), mean_interval([])
    assert single.value == 2.0
    assert np.isnan([single.low, single.high, empty.value, empty.low, empty.high]).all()
    equal = mean_interval([0.1] * 12)
    assert (equal.low, equal.high) == (equal.value, equal.value)
