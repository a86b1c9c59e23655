"""Tests of the log-gamma distribution against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from fanin.statistics.draw_distribution import log_interval, log_mean_excess, predicted_mean_log
from fanin.statistics.log_gamma import (
    NORMAL_SKEW,
    cdf,
    cumulant_function,
    excess_kurtosis,
    from_normal,
)

SHAPES = [0.05, 0.5, 1.0, 5.0, 1e3]  # of a gamma variable
LEVELS = np.array([1e-6, 0.025, 0.3, 0.5, 0.9, 0.975, 1 - 1e-6])
# The shape is interpolated with a relative error of 2e-7, which changes the skewness by at most as
# much, and the quantiles by a few times that.
RTOL = 2e-6


@pytest.mark.parametrize("k", SHAPES)
def test_quantiles_and_distribution_function_are_those_of_scipy(k: float) -> None:
    mean, var, skew, kurtosis = stats.loggamma.stats(k, moments="mvsk")
    z = (stats.loggamma.ppf(LEVELS, k) - mean) / var**0.5
    normal = stats.norm.ppf(LEVELS)
    np.testing.assert_allclose(from_normal(normal, skew), z, rtol=RTOL, atol=RTOL)
    np.testing.assert_allclose(from_normal(-normal, -skew), -z, rtol=RTOL, atol=RTOL)
    # Near the ends the probability changes by the relative error times |log p|, at most 14.
    np.testing.assert_allclose(cdf(z, skew), LEVELS, rtol=14 * RTOL)
    np.testing.assert_allclose(cdf(-z, -skew), 1 - LEVELS, rtol=14 * RTOL)
    np.testing.assert_allclose(excess_kurtosis([skew, -skew]), kurtosis, rtol=2 * RTOL)


@pytest.mark.parametrize("skew", [-1.5, -0.4, -2e-3, 0.0, 2e-3, 0.4])
@pytest.mark.parametrize("power", [0.5, -0.3])
def test_the_cumulant_function_is_the_log_of_a_mean(power: float, skew: float) -> None:
    def integrand(z: float) -> float:
        return float(np.exp(power * from_normal(z, skew)) * stats.norm.pdf(z))

    mean, error = integrate.quad(integrand, -9, 9, epsabs=1e-10, limit=200)
    # The difference of two values of log Gamma at k = 1e6, each near 1e7, has an error of 1e-8.
    expected = np.log(mean)
    assert cumulant_function(power, skew) == pytest.approx(expected, abs=2e-8 + 2 * error)


def test_a_mean_that_does_not_exist_is_infinite() -> None:
    var, skew = stats.loggamma.stats(0.5, moments="vs")
    # exp(-t log G) has a mean for t < k only.
    for t, exists in ((0.49, True), (0.51, False)):
        assert np.isfinite(cumulant_function(t * var**0.5, -skew)) == exists
    assert np.isfinite(cumulant_function(5.0, skew))


def test_the_normal_limit_is_continuous() -> None:
    z = np.linspace(-4, 4, 81)
    for skew in (-NORMAL_SKEW, NORMAL_SKEW):
        # First term of the Edgeworth series: skew (z^2 - 1) pdf / 6 is at most 0.067 skew.
        assert np.abs(cdf(z, skew) - cdf(z, 0.0)).max() < 0.07 * NORMAL_SKEW
        assert from_normal(z, skew / 2).tolist() == z.tolist()


@pytest.mark.parametrize("degrees", [1, 2, 7])
def test_the_distribution_of_a_chi_squared_moment_is_exact(degrees: int) -> None:
    var, skew = stats.loggamma.stats(degrees / 2, moments="vs")
    mean_log = predicted_mean_log(np.log(degrees), var**0.5, 0.0, skew)
    bounds = np.exp(log_interval(mean_log, var**0.5, 0.0, skew))
    np.testing.assert_allclose(bounds, stats.chi2.ppf([0.025, 0.975], degrees), rtol=20 * RTOL)
    # A log-normal distribution with this mean and spread of log m has a larger mean.
    assert log_mean_excess(var**0.5) > log_mean_excess(var**0.5, skew)
