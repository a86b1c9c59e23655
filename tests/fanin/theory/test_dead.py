"""Shares of dead units agree with closed forms, with draws and with measured nets."""

from __future__ import annotations

import math

import pytest
import torch

from fanin.theory.dead import born_dead, dead_share, dead_share_equal
from fanin.theory.kernels import dense_kernels


def equal(correlation, batch):
    eye = torch.eye(batch, dtype=torch.float64)
    return correlation + (1 - correlation) * eye


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9, 0.9999, 1.0])
def test_two_images_have_sheppard_s_quadrant(correlation):
    # 1/4 + asin(c) / 2 pi.
    exact = 0.25 + math.asin(correlation) / (2 * math.pi)
    assert dead_share_equal(correlation, 2) == pytest.approx(exact, abs=1e-9)
    value, se = dead_share(equal(correlation, 2))
    # The near-singular matrix is lifted by 1e-12, which moves the quadrant by its root.
    assert abs(value - exact) < 3.5 * se + 1e-6


def test_half_correlated_images_have_a_closed_form():
    # With c = 1/2 the orthant of n has 1 / (n + 1).
    for n in (1, 4, 32, 200):
        assert dead_share_equal(0.5, n) == pytest.approx(1 / (n + 1), rel=1e-9)
    value, se = dead_share(equal(0.5, 32))
    assert abs(value - 1 / 33) < 4.5 * se  # 8 repeats: a t of 7 degrees, 3.5 sd at 4.5
    assert se < 1e-2 / 33


def test_independent_images_need_every_coin_to_fall():
    assert dead_share_equal(0.0, 20) == pytest.approx(2.0**-20)
    assert dead_share(equal(0.0, 20))[0] == pytest.approx(2.0**-20)


@pytest.mark.parametrize("shift", [-2.0, -1.0, 0.0])
def test_unequal_correlations_agree_with_draws(shift):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(12, 8, generator=generator, dtype=torch.float64) + 0.7
    cov = x @ x.T / 8
    mean = torch.full((12,), shift, dtype=torch.float64)
    w = torch.randn(8, 200_000, generator=generator, dtype=torch.float64) / math.sqrt(8)
    drawn = ((x @ w + shift).amax(0) <= 0).double().mean().item()
    value, se = dead_share(cov, mean)
    # 12 images of 8 inputs: the covariance is singular.
    assert abs(value - drawn) < 3.5 * math.sqrt(drawn / 200_000) + 4.5 * se
    assert se < 0.05 * value


def test_images_without_pre_activation_count_as_off():
    cov = torch.diag(torch.tensor([0.0, 1.0, 0.0])).double()
    assert dead_share(cov)[0] == pytest.approx(0.5)
    assert dead_share(torch.zeros(3, 3).double()) == (1.0, 0.0)
    assert dead_share(cov, torch.tensor([1.0, 0.0, 0.0])) == (0.0, 0.0)


def test_the_measured_nets_of_the_theory_note():
    # THEORY.md, section 7: batches of 32, mean over a layer; standard errors .002 to .005.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 256, generator=generator, dtype=torch.float64)
    gram = x @ x.T / 256
    deep = dense_kernels(torch.relu, 2.0, 0.0, gram, 21).correlation()
    off = ~torch.eye(32, dtype=torch.bool)
    for layer in (5, 20):
        c = float(deep[layer - 1][off].mean())
        value, se = dead_share(deep[layer - 1])
        # These inputs are nearly equally correlated, so that both agree to a few percent.
        assert value == pytest.approx(dead_share_equal(c, 32), rel=0.1)
        assert se < 0.01


def test_the_same_seed_gives_the_same_number():
    cov = equal(0.3, 10) + 0.1 * torch.diag(torch.arange(10).double())
    assert dead_share(cov, seed=4) == dead_share(cov, seed=4)
    assert dead_share(cov, seed=4) != dead_share(cov, seed=5)


def test_born_dead_nets_are_as_many_as_drawn():
    widths, draws = (3, 3, 2), 20_000
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(draws, 4, 1)
    for width in widths:
        w = torch.randn(draws, width, x.shape[1], generator=generator)
        x = torch.relu(w @ x)
    share = (x.amax((1, 2)) == 0).double().mean().item()
    exact = born_dead(widths)
    assert abs(share - exact) < 3.5 * math.sqrt(exact * (1 - exact) / draws)
