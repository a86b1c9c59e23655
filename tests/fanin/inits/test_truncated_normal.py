"""Moments and draws of a normal distribution that is cut off."""

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
    """THEORY's formula, with so many digits that its cancellations don't matter."""
    with mpmath.workdps(400):
        std = mpmath.mpf(scheme.std)
        low, high = (mpmath.mpf(cut) - mpmath.mpf(scheme.mean) for cut in (scheme.a, scheme.b))
        low, high = low / std, high / std
        z = (mpmath.erf(high / mpmath.sqrt(2)) - mpmath.erf(low / mpmath.sqrt(2))) / 2
        shift = (mpmath.npdf(low) - mpmath.npdf(high)) / z
        var = 1 + (low * mpmath.npdf(low) - high * mpmath.npdf(high)) / z - shift**2
        return float(scheme.mean + std * shift), float(std**2 * var)


@pytest.mark.parametrize(
    "cut",
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
def test_moments_are_exact_also_in_far_tails_and_between_close_cuts(cut):
    scheme = TruncatedNormal(**cut)
    mean, var = exact_moments(scheme)
    moments = scheme.moments(WEIGHT)
    # (a - mean) / std and the like are rounded by eps; a density exp(-x^2/2) turns that into a
    # relative error of x^2 eps, and a mean near 0 is a difference of numbers of size std.
    edge = max(abs(scheme.a), abs(scheme.b)) if abs(scheme.a) > 5 else 5
    tolerance = 16 * edge**2 * EPS
    assert moments.mean == pytest.approx(mean, rel=tolerance, abs=tolerance * var**0.5)
    assert moments.var == pytest.approx(var, rel=tolerance)


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 6), st.floats(-2, 2), st.floats(0.5, 4))
def test_moments_agree_with_scipy(low, width, mean, std):
    scheme = TruncatedNormal(mean=mean, std=std, a=low, b=low + width)
    cuts = (scheme.a - mean) / std, (scheme.b - mean) / std
    scipy_mean, scipy_var = truncnorm.stats(*cuts, loc=mean, scale=std, moments="mv")
    moments = scheme.moments(WEIGHT)
    # scipy subtracts terms cut pdf(cut) / Z. Such a pdf / Z is at most about cut + 1 / width, and
    # has a relative error of cut^2 eps, since exp(-cut^2 / 2) has.
    cut = max(map(abs, cuts))
    term = (1 + cut) * (1 + cut + std / width)
    tolerance = 8 * term * (1 + cut**2) * EPS
    assert moments.mean == pytest.approx(float(scipy_mean), abs=tolerance * (std + abs(mean)))
    assert moments.var == pytest.approx(float(scipy_var), abs=tolerance * std**2)


def test_the_default_has_theory_s_variance():
    assert TruncatedNormal().moments(WEIGHT).var == pytest.approx(0.77374, abs=5e-6)


@pytest.mark.parametrize("cut", [{}, {"a": 8.0, "b": 9.0}, {"a": -40.0, "b": -39.0}], ids=str)
def test_draws_follow_the_distribution_and_stay_between_the_cuts(cut):
    scheme = TruncatedNormal(**cut)
    sampled = scheme.sample(WEIGHT, torch.Generator().manual_seed(0)).flatten()
    assert sampled.min() >= scheme.a
    assert sampled.max() <= scheme.b
    assert kstest(sampled.numpy(), truncnorm(scheme.a, scheme.b).cdf).pvalue > 1e-3


def test_the_cuts_are_absolute_as_in_torch():
    ours = TruncatedNormal(mean=1.0, std=2.0, a=0.0, b=1.5)
    torchs = torch.empty(50_000, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    torch.nn.init.trunc_normal_(torchs, mean=1.0, std=2.0, a=0.0, b=1.5, generator=generator)
    error = torchs.std() / len(torchs) ** 0.5
    assert abs(torchs.mean() - ours.moments(WEIGHT).mean) < 4 * error


@pytest.mark.parametrize("kind", ["Uniform", "TruncatedNormal"])
def test_cuts_in_the_wrong_order_are_refused(kind):
    with pytest.raises(ConfigError, match="a must lie below b"):
        init_from_config({"_target_": f"fanin.inits.{kind}", "a": 1.0, "b": 1.0})
