"""Tests of the probability integral transform and of its test of uniformity."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fanin.statistics.pit import probability_transform, uniformity


def _clustered(
    cells: int, streams: int, layers: int, rng: np.random.Generator, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the transforms of draws whose layers are identical, and their cells and streams."""
    cell, stream, _ = (index.ravel() for index in np.indices((cells, streams, layers)))
    z = np.repeat(rng.standard_normal(cells * streams), layers) * spread
    return stats.norm.cdf(z), cell, cell * streams + stream


def test_the_transform_is_the_quantile_of_a_lognormal() -> None:
    log_sd, value = 0.7, 3.0
    moments = np.array([0.5, 2.0, 9.0])
    expected = stats.lognorm.cdf(moments, s=log_sd, scale=value * np.exp(-(log_sd**2) / 2))
    columns = np.log(moments), np.full(3, np.log(value)), np.full(3, log_sd)
    np.testing.assert_allclose(probability_transform(*columns), expected, rtol=1e-12)


def test_the_distance_is_kolmogorov_and_smirnovs() -> None:
    transformed = np.random.default_rng(0).beta(2, 1, 2000)
    label = np.arange(2000)
    exact = stats.kstest(transformed, "uniform").statistic
    # Between two levels, 1/200 apart, both distribution functions rise by at most 2/200 (density
    # 2x) plus the sampling error of one bin, four standard errors sqrt(.01/2000).
    assert uniformity(transformed, label, label).distance == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("layers", [1, 10])
def test_the_p_value_keeps_its_level_when_layers_repeat(layers: int) -> None:
    rng = np.random.default_rng(1)
    tests, level = 200, 0.1
    p_values = [uniformity(*_clustered(20, 10, layers, rng)).p for _ in range(tests)]
    rejected = np.mean(np.array(p_values) <= level)
    assert rejected <= level + 4 * (level * (1 - level) / tests) ** 0.5
    # The test that takes all draws as independent rejects far more often.
    if layers > 1:
        samples = [_clustered(20, 10, layers, rng)[0] for _ in range(50)]
        naive = [stats.kstest(sample, "uniform").pvalue for sample in samples]
        assert np.mean(np.array(naive) <= level) > 0.5


@pytest.mark.parametrize("spread", [0.8, 1.25])
def test_a_spread_that_is_wrong_by_a_quarter_is_rejected(spread: float) -> None:
    rng = np.random.default_rng(2)
    assert uniformity(*_clustered(40, 64, 3, rng, spread)).p < 0.01


def test_wide_and_narrow_intervals_with_the_right_coverage_are_rejected() -> None:
    """A mixture of two spreads can cover 95 % and still not be normal."""
    rng = np.random.default_rng(3)
    wide, cell, stream = _clustered(40, 64, 1, rng, 0.5)
    narrow = _clustered(40, 64, 1, rng, 1.2)[0]
    pooled = np.concatenate([wide, narrow])
    assert np.mean((pooled > 0.025) & (pooled < 0.975)) == pytest.approx(0.95, abs=0.01)
    assert uniformity(pooled, np.tile(cell, 2), np.tile(stream, 2)).p < 0.01


def test_a_shared_error_of_cells_is_allowed_for() -> None:
    """Few cells, each with its own offset: no evidence that theory is wrong on average."""
    rng = np.random.default_rng(4)
    p_values = []
    for _ in range(100):
        cell, stream = (index.ravel() for index in np.indices((6, 200)))
        z = rng.standard_normal(1200) * 0.8 + 0.6 * rng.standard_normal(6)[cell]
        p_values.append(uniformity(stats.norm.cdf(z), cell, stream + 1000 * cell).p)
    # Four standard errors above the level of 10 %.
    assert np.mean(np.array(p_values) <= 0.1) <= 0.1 + 4 * 0.03


def test_no_draws_and_a_single_cluster_have_no_p_value() -> None:
    none = np.array([])
    assert np.isnan(uniformity(none, none, none).distance)
    one = uniformity(np.array([0.3, 0.4]), np.zeros(2), np.zeros(2))
    assert one.distance == pytest.approx(1 - 81 / 200)  # both draws are below the level 81/200
    assert np.isnan(one.p)
