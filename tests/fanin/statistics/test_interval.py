"""Intervals of a mean, against published worked examples and by simulation."""

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
    found = mean_interval([1.9, 0.8, 1.1, 0.1])
    # t(3) at 97.5 % is 3.18245 in every table; the standard error by hand.
    half = 3.18245 * np.sqrt(((0.925**2 + 0.175**2 + 0.125**2 + 0.875**2) / 3) / 4)
    assert found.value == pytest.approx(0.975)
    assert found.high - found.value == pytest.approx(half, rel=1e-5)
    assert found.value - found.low == pytest.approx(half, rel=1e-5)


def test_bca_matches_the_published_example() -> None:
    # Efron & Tibshirani 1993, section 14.2: variance 171.5, 90 % BCa interval (115.8, 259.6), from
    # 2,000 resamples. Their ends scatter by 1.9 and 3.4 from one set of resamples to another
    # (standard deviation over 60 sets), ours, from 9,999, by 0.85 and 1.5.
    found = bca(SPATIAL, np.var, level=0.90)
    assert found.value == pytest.approx(171.5, abs=0.05)
    assert found.low == pytest.approx(115.8, abs=3.5 * np.hypot(1.9, 0.85))
    assert found.high == pytest.approx(259.6, abs=3.5 * np.hypot(3.4, 1.5))


def test_ten_or_more_values_use_bca() -> None:
    assert len(LAEVO) == MIN_BOOTSTRAP
    found = mean_interval(LAEVO - DEXTRO)
    assert found == bca(LAEVO - DEXTRO, np.mean)
    # One patient gained 4.6 hours: the interval must lean to that side, as t's can't.
    assert found.high - found.value > 1.2 * (found.value - found.low)


@pytest.mark.parametrize("size", [5, 20])
def test_intervals_have_their_nominal_coverage(size: int) -> None:
    rng = np.random.default_rng(0)
    trials = 200
    found = [mean_interval(rng.standard_normal(size)) for _ in range(trials)]
    share = np.mean([each.low <= 0 <= each.high for each in found])
    # BCa of a normal mean is short by a factor sqrt((n - 1) / n) and has z for t: 93.1 % at 20.
    nominal = 0.95 if size < MIN_BOOTSTRAP else 0.931
    assert abs(share - nominal) < 3.5 * np.sqrt(nominal * (1 - nominal) / trials)


def test_intervals_without_spread() -> None:
    one, none = mean_interval([2.0]), mean_interval([])
    assert one.value == 2.0
    assert np.isnan([one.low, one.high, none.value, none.low, none.high]).all()
    same = mean_interval([0.1] * 12)
    assert (same.low, same.high) == (same.value, same.value)
