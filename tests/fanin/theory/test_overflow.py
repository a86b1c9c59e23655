"""Overflow probabilities agree with measurements and draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fanin.theory.overflow import first_overflow, overflow_probabilities, overflow_probability

LOG_CHI_SQUARED = math.pi / 2**0.5, -1.5351415907229  # spread and skewness, one degree of freedom


def log_moments(width, weight_m2, depth, *, mean=False):
    """Return log E[y^2] of a ReLU network for inputs of second moment 1 (mean: U(0, 1) weights)."""
    growth = (width / 2) ** 2 if mean else width * weight_m2 / 2
    first = width * weight_m2 * (3 * width / 4 if mean else 1)
    return math.log(first) + np.arange(depth) * math.log(growth)


@pytest.mark.parametrize(
    ("width", "weight_m2", "dtype", "measured"),
    [
        (256, 1.0, torch.float32, 36.3),
        (512, 0.04, torch.float32, 75.3),
        (512, 0.04, torch.float16, 9.0),
        (256, 1.0, torch.float16, 4.5),
    ],
)
def test_first_overflow_agrees_with_measurements(width, weight_m2, dtype, measured):
    # docs/appendix/derivations.md, section 3.6; measured means over networks.
    log_m2 = log_moments(width, weight_m2, 100)
    chances = overflow_probabilities(log_m2, [width] * 100, dtype)
    assert abs(first_overflow(chances) - measured) <= 1


def test_squares_overflow_at_half_the_depth():
    log_m2 = log_moments(256, 1.0, 60)
    first = first_overflow(overflow_probabilities(log_m2, [256] * 60, torch.float32))
    squared = overflow_probabilities(log_m2, [256] * 60, torch.float32, squared=True)
    assert abs(2 * first_overflow(squared) - first) <= 2


def test_overflow_probability_agrees_with_draws():
    generator = torch.Generator().manual_seed(0)
    n, draws, log_sd, limit = 50, 40_000, 0.8, torch.finfo(torch.float16).max
    log_m2 = math.log(limit**2 / 12)
    z = torch.randn(draws, generator=generator, dtype=torch.float64)
    m = torch.exp(log_m2 - log_sd**2 / 2 + log_sd * z)
    y = m.sqrt()[:, None] * torch.randn(draws, n, generator=generator, dtype=torch.float64)
    share = (y.abs() > limit).any(1).double().mean().item()
    chance = overflow_probability(log_m2, n, torch.float16, log_sd)
    assert abs(share - chance) < 3.5 * math.sqrt(chance * (1 - chance) / draws)


def test_overflow_with_a_chi_squared_second_moment_agrees_with_draws():
    n, draws, limit = 50, 40_000, torch.finfo(torch.float16).max
    log_m2, rng = math.log(limit**2 / 12), np.random.default_rng(2)
    y = np.sqrt(np.exp(log_m2) * rng.chisquare(1, draws))[:, None] * rng.standard_normal((draws, n))
    share = (np.abs(y) > limit).any(1).mean()
    chance = overflow_probability(log_m2, n, torch.float16, *LOG_CHI_SQUARED)
    error = math.sqrt(chance * (1 - chance) / draws)
    assert abs(share - chance) < 3.5 * error
    assert (
        abs(share - overflow_probability(log_m2, n, torch.float16, LOG_CHI_SQUARED[0])) > 7 * error
    )


@pytest.mark.parametrize("between", [0.02, 0.4])
def test_overflow_with_a_common_mean_agrees_with_draws(between):
    generator = torch.Generator().manual_seed(1)
    n, draws, limit = 50, 40_000, torch.finfo(torch.float16).max
    m2 = (limit / (1.4 if between < 0.1 else 2.5)) ** 2
    z = torch.randn(draws, n, generator=generator, dtype=torch.float64)
    y = math.sqrt((1 - between) * m2) + math.sqrt(between * m2) * z
    share = (y.abs() > limit).any(1).double().mean().item()
    chance = overflow_probability(math.log(m2), n, torch.float16, variance_share=between)
    assert 0.01 < share < 0.99
    assert abs(share - chance) < 3.5 * math.sqrt(chance * (1 - chance) / draws)
    # Units of mean 0 with the same second moment have larger maxima.
    assert overflow_probability(math.log(m2), n, torch.float16) > 2 * chance


@pytest.mark.parametrize(("below", "chance"), [(1.01, 0.0), (0.99, 1.0)])
def test_equal_units_overflow_together(below, chance):
    log_m2 = 2 * math.log(torch.finfo(torch.float16).max / below)
    assert overflow_probability(log_m2, 1000, torch.float16, variance_share=0.0) == pytest.approx(
        chance
    )


def test_tiny_log_sd_equals_zero():
    log_m2 = math.log(6e4**2 / 9)
    narrow, none = (overflow_probability(log_m2, 100, torch.float16, sd) for sd in (1e-9, 0.0))
    assert narrow == pytest.approx(none)


def test_extreme_second_moments():
    assert overflow_probability(2000.0, 10, torch.float32) == pytest.approx(1.0)
    assert overflow_probability(math.inf, 10, torch.bfloat16) == 1.0
    assert overflow_probability(-math.inf, 10, torch.float16) == 0.0
    assert overflow_probability(-2000.0, 1e9, torch.float16) == 0.0
    assert math.isnan(overflow_probability(math.nan, 10, torch.float16))
    assert first_overflow([0.0, math.nan, 0.1]) is None


def test_bfloat16_overflows_like_float32():
    log_m2 = log_moments(256, 1.0, 60)
    firsts = [
        first_overflow(overflow_probabilities(log_m2, [256] * 60, dtype))
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert firsts[0] == firsts[1]
