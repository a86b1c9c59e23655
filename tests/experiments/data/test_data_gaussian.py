"""Gaussian images have the configured moments and correlations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import Features, Gaussian, Split
from experiments.data.synthetic import correlation
from experiments.scaling import Standardize

SIGMAS = 4.5
"""Tolerance in standard errors; a correct sampler fails with probability 1 in 150,000."""


def load(source: Gaussian, seed: int = 0) -> Split:
    return source.load(Path(), download=False, seed=seed).train


def dense_correlation(side: int, length: float) -> torch.Tensor:
    """Return the correlation of all pairs of the side^2 pixels."""
    lag = (torch.arange(side)[:, None] - torch.arange(side)) % side
    axis = correlation(side, length)[lag]
    return torch.kron(axis, axis)


@pytest.mark.parametrize("length", [0.0, 0.7, 2.0, 5.0])
def test_mean_variance_and_correlation_have_the_expected_values(length: float) -> None:
    source = Gaussian(
        mean=3.0, std=2.0, correlation_length=length, channels=2, image_side=12, train_size=4000
    )
    z = (load(source).x.double() - 3.0) / 2.0
    n = 2 * len(z)  # channels are independent fields too
    z = z.reshape(n, 12, 12)
    rho = dense_correlation(12, length)
    pixels = len(rho)

    # Var of the mean over pixels of one field is the mean over pairs of rho.
    assert abs(z.mean()) < SIGMAS * math.sqrt(rho.mean() / n)
    # Cov(z_p^2, z_q^2) = 2 rho_pq^2 (Isserlis).
    assert abs(z.square().mean() - 1) < SIGMAS * math.sqrt(2 * rho.square().mean() / n)
    for lag in (1, 3):
        expected = correlation(12, length)[lag]
        measured = (z * z.roll(-lag, 2)).mean()
        neighbour = torch.arange(pixels).reshape(12, 12).roll(-lag, 1).flatten()
        # Cov(z_p z_p', z_q z_q') = rho_pq rho_p'q' + rho_pq' rho_p'q (Isserlis).
        pairs = rho * rho[neighbour][:, neighbour] + rho[:, neighbour] * rho[neighbour]
        assert abs(measured - expected) < SIGMAS * math.sqrt(pairs.mean() / n)


def test_channels_are_independent() -> None:
    z = load(Gaussian(correlation_length=2.0, channels=2, image_side=12, train_size=4000)).x
    rho = dense_correlation(12, 2.0)
    standard_error = math.sqrt(rho.square().mean() / len(z))
    assert abs((z[:, 0] * z[:, 1]).mean()) < SIGMAS * standard_error


@settings(deadline=None)
@given(side=st.integers(1, 40), length=st.floats(0, 20))
def test_correlation_is_symmetric_and_positive_semidefinite(side: int, length: float) -> None:
    c = correlation(side, length)
    assert c[0] == 1
    torch.testing.assert_close(c[1:], c[1:].flip(0))
    # The spectrum of a covariance is non-negative, up to rounding.
    # Rounding error of an FFT of n numbers up to 1: n log2(n) eps (Higham 2002, theorem 24.2).
    error = side * max(1.0, math.log2(side)) * torch.finfo(torch.float64).eps
    assert torch.fft.fft(c).real.min() >= -error


def test_regression_targets_have_variance_one_plus_noise() -> None:
    n = 20_000
    noise = 0.5
    source = Gaussian(
        mean=7, correlation_length=3, image_side=8, train_size=n, task="regression", noise=noise
    )
    y = load(source).y.double()
    variance = 1 + noise**2
    assert abs(y.mean()) < SIGMAS * math.sqrt(variance / n)
    assert abs(y.square().mean() - variance) < SIGMAS * variance * math.sqrt(2 / n)


def test_regression_targets_are_linear_in_the_image_up_to_noise() -> None:
    noise = 0.1
    source = Gaussian(image_side=7, train_size=4000, task="regression", noise=noise)
    split = load(source)
    x, y = split.x.flatten(1).double(), split.y[:, None].double()
    residual = y - x @ torch.linalg.lstsq(x, y).solution
    degrees_of_freedom = len(y) - x.shape[1]
    variance = residual.square().sum() / degrees_of_freedom
    assert abs(variance / noise**2 - 1) < SIGMAS * math.sqrt(2 / degrees_of_freedom)


def test_train_and_test_share_a_teacher() -> None:
    source = Gaussian(image_side=7, train_size=200, test_size=100, task="regression", noise=0.0)
    data = source.load(Path(), download=False, seed=1)
    x, y = data.train.x.flatten(1).double(), data.train.y[:, None].double()
    teacher = torch.linalg.lstsq(x, y).solution
    predicted = data.test.x.flatten(1).double() @ teacher
    # Images and targets are float32; the sum over 49 weights multiplies rounding by at most 49.
    tolerance = 49 * torch.finfo(torch.float32).eps * data.test.y.abs().max()
    assert (predicted[:, 0] - data.test.y).abs().max() < tolerance


def test_train_and_test_images_differ() -> None:
    data = Gaussian(train_size=9, test_size=9).load(Path(), download=False, seed=0)
    assert not torch.isclose(data.train.x, data.test.x).all((1, 2, 3)).any()


def test_labels_cover_all_classes_and_depend_on_the_seed() -> None:
    source = Gaussian(image_side=7, train_size=500, classes=3)
    assert load(source, seed=0).y.unique().tolist() == [0, 1, 2]
    assert torch.equal(load(source, seed=0).x, load(source, seed=0).x)
    assert not torch.equal(load(source, seed=0).x, load(source, seed=1).x)


def test_the_attributes_of_the_source_describe_its_data() -> None:
    source = Gaussian(channels=3, image_side=9, train_size=1500, test_size=5, task="regression")
    data = source.load(Path(), download=False, seed=0)
    assert data.train.x.shape == (1500, *source.shape)
    assert data.test.x.shape == (5, *source.shape)
    assert source.n_classes is data.n_classes is None
    assert data.train.x.dtype == data.train.y.dtype == torch.float32
    assert data.full_scale == 1


def test_features_have_geometric_scales_that_standardize_removes() -> None:
    data = Features(count=4, spread=1000.0, train_size=4000, test_size=10)
    train = data.load(Path(), False, seed=0).train
    std = train.x[:, :, 0, 0].std(0)
    # The relative standard error of a standard deviation is 1 / sqrt(2 n) = 1.1 %.
    torch.testing.assert_close(std, torch.tensor([1.0, 10.0, 100.0, 1000.0]), rtol=0.05, atol=0)
    center, spread = Standardize().fit(train.x, 1.0)
    scaled = (train.x - center) / spread
    torch.testing.assert_close(scaled.std(0).flatten(), torch.ones(4).double(), rtol=1e-3, atol=0)


def test_the_target_of_features_is_linear_and_depends_on_all_of_them_equally() -> None:
    data = Features(count=5, spread=100.0, train_size=4000, test_size=10, noise=0.0)
    equal = Features(count=5, spread=1.0, train_size=4000, test_size=10, noise=0.0)
    train, same = (source.load(Path(), False, seed=0).train for source in (data, equal))
    assert torch.equal(train.y, same.y)
    x = same.x[:, :, 0, 0].double()
    fitted = x @ torch.linalg.lstsq(x, train.y.double()[:, None]).solution
    torch.testing.assert_close(fitted[:, 0], train.y.double(), rtol=0, atol=1e-5)
    assert abs(float(train.y.var()) - 1) < 0.1  # standard error of a variance: 2.2 %
