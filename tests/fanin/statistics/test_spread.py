"""The chi-squared test of the spread: calibrated on real chains, and it sees a wrong beta."""

from __future__ import annotations

import numpy as np
import pytest
from relu_chains import relu_chain, relu_log_sd

from fanin.statistics.spread import p_other_spread


def _rate(sds: np.ndarray, draws: int, predicted: float) -> float:
    """How often a nominal 5 % rejects."""
    full = np.full(sds.shape, 1.0)
    return float((p_other_spread(sds, draws * full, predicted * full) <= 0.05).mean())


def test_false_alarms_on_normal_numbers_are_the_nominal_ones() -> None:
    trials = 20_000
    for draws in (3, 10, 64):
        sds = np.random.default_rng(draws).standard_normal((trials, draws)).std(1, ddof=1)
        assert abs(_rate(sds, draws, 1.0) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(("n", "depth", "draws"), [(256, 20, 10), (512, 30, 20), (256, 20, 64)])
def test_wide_relu_networks_scatter_as_predicted(n: int, depth: int, draws: int) -> None:
    """First order in 1/n: at these widths the predicted spread is 1 % off at most."""
    logs = np.log(relu_chain(n, depth, (5000, draws), np.random.default_rng(0))[..., -1])
    assert 0.04 < _rate(logs.std(1, ddof=1), draws, relu_log_sd(n, depth)[-1]) < 0.065


def test_half_the_spread_is_seen_with_thirty_draws() -> None:
    logs = np.log(relu_chain(256, 20, (1000, 30), np.random.default_rng(0))[..., -1])
    assert _rate(logs.std(1, ddof=1), 30, relu_log_sd(256, 20)[-1] / 2) > 0.99


def test_without_a_predicted_spread_there_is_no_test() -> None:
    p = p_other_spread(np.array([0.1, 0.1]), np.array([9.0, 9.0]), np.array([np.nan, 0.0]))
    assert np.isnan(p).all()
