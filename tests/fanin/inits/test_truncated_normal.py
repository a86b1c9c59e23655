"""Tests of the moments and draws of the truncated normal distribution."""

import mpmath  # comes with torch
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, truncnorm

from experiments.config.init_options import init_from_config
from fanin.errors import ConfigError
from fanin.inits import TruncatedNormal, WeightShape

WEIGHT = WeightShape(50, 40)
EPS = torch.finfo(torch.float64).eps


def exact_moments(scheme: TruncatedNormal) -> tuple[float, float]:
    """Evaluate the textbook formula with enough digits that its cancellation does not matter."""
    with mpmath.workdps(400):
        std = mpmath.mpf(scheme.std)
        low, high = (mpmath.mpf(bound) - mpmath.mpf(scheme.mean) for bound in (scheme.a, scheme.b))
        low, high = low / std, high / std
        z = (mpmath.erf(high / mpmath.sqrt(2)) - mpmath.erf(low / mpmath.sqrt(2))) / 2
        shift = (mpmath.npdf(low) - mpmath.npdf(high)) / z
        var = 1 + (low * mpmath.npdf(low) - high * mpmath.npdf(high)) / z - shift**2
        return float(scheme.mean + std * shift), float(std**2 * var)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"std": 0.02},
        {"a": -1.0, "b": 3.0, "mean": 0.5},
        {"a": 2.0, "b": 50.0},
        {"a": 8.0, "b": 9.0},
        {"a": -26.0, "b": -25.0},
        {"a": 20.0, "b": 20.001},
        {"std": 1e6},
        {"std": 1e-2, "a": 0.0, "b": 1.0},
    ],
    ids=str,
)
def test_moments_are_exact_in_tails_and_narrow_bounds(arguments):
    scheme = TruncatedNormal(**arguments)
    mean, var = exact_moments(scheme)
    moments = scheme.moments(WEIGHT)
    # (a - mean) / std has a rounding error of eps, which gives the density exp(-x^2/2) a relative
    # error of x^2 eps. A mean near 0 is a difference of numbers of size std.
    edge = max(abs(scheme.a), abs(scheme.b)) if abs(scheme.a) > 5 else 5
    tolerance = 16 * edge**2 * EPS
    assert moments.mean == pytest.approx(mean, rel=tolerance, abs=tolerance * var**0.5)
    assert moments.var == pytest.approx(var, rel=tolerance)


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 6), st.floats(-2, 2), st.floats(0.5, 4))
def test_moments_agree_with_scipy(low, width, mean, std):
    scheme = TruncatedNormal(mean=mean, std=std, a=low, b=low + width)
    bounds = (scheme.a - mean) / std, (scheme.b - mean) / std
    scipy_mean, scipy_var = truncnorm.stats(*bounds, loc=mean, scale=std, moments="mv")
    moments = scheme.moments(WEIGHT)
    # scipy subtracts terms x pdf(x) / Z, with x a bound. pdf(x) / Z is at most about x + 1 / width
    # and has the relative error x^2 eps of exp(-x^2 / 2).
    x = max(map(abs, bounds))
    term = (1 + x) * (1 + x + std / width)
    tolerance = 8 * term * (1 + x**2) * EPS
    assert moments.mean == pytest.approx(float(scipy_mean), abs=tolerance * (std + abs(mean)))
    assert moments.var == pytest.approx(float(scipy_var), abs=tolerance * std**2)


def test_default_variance_matches_the_tabulated_value():
    assert TruncatedNormal().moments(WEIGHT).var == pytest.approx(0.77374, abs=5e-6)


@pytest.mark.parametrize("bounds", [{}, {"a": 8.0, "b": 9.0}, {"a": -40.0, "b": -39.0}], ids=str)
def test_draws_follow_the_truncated_distribution(bounds):
    scheme = TruncatedNormal(**bounds)
    sampled = scheme.sample(WEIGHT, torch.Generator().manual_seed(0)).flatten()
    assert sampled.min() >= scheme.a
    assert sampled.max() <= scheme.b
    assert kstest(sampled.numpy(), truncnorm(scheme.a, scheme.b).cdf).pvalue > 1e-3


def test_bounds_are_absolute_as_in_torch():
    scheme = TruncatedNormal(mean=1.0, std=2.0, a=0.0, b=1.5)
    values = torch.empty(50_000, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    torch.nn.init.trunc_normal_(values, mean=1.0, std=2.0, a=0.0, b=1.5, generator=generator)
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - scheme.moments(WEIGHT).mean) < 4 * error


@pytest.mark.parametrize("scheme", ["Uniform", "TruncatedNormal"])
def test_bounds_in_the_wrong_order_are_rejected(scheme):
    with pytest.raises(ConfigError, match="a must be less than b"):
        init_from_config({"_target_": f"fanin.inits.{scheme}", "a": 1.0, "b": 1.0})
