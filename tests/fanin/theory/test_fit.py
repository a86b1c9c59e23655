"""Tests of the distribution that is fitted to simulated draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fanin.inits import Moments
from fanin.statistics.draw_distribution import predicted_mean_log
from fanin.statistics.log_gamma import excess_kurtosis
from fanin.statistics.pit import probability_transform
from fanin.theory.finite_width import predict_finite_width
from fanin.theory.finite_width.fit import fit_distribution
from fanin.theory.moments import LayerMoments
from fanin.theory.prediction import DrawDistribution

N, REPLICATES = 1024, 400


def fit_replicates(moments: np.ndarray) -> DrawDistribution:
    """Fit each replicate of [draw, replicate]."""
    return fit_distribution(moments[:, None, :])


@pytest.mark.parametrize("degrees", [1, 4])
def test_the_fit_to_chi_squared_draws_recovers_skewness_mean_and_error(degrees: int) -> None:
    moments = stats.chi2.rvs(degrees, size=(N, REPLICATES), random_state=0)
    fit = fit_replicates(moments)
    skew = stats.loggamma.stats(degrees / 2, moments="s")
    fitted = np.broadcast_to(fit.log_skew, fit.value.shape)[0]
    assert (fitted < 0).all()
    # Estimates are biased by O(1/n); the bound 10/n is a tenth of the error of one replicate.
    assert fitted.mean() == pytest.approx(skew, abs=4 * stats.sem(fitted) + 10 / N)
    log_ratio = np.log(fit.value[0] / degrees)
    assert np.abs(log_ratio.mean()) < 4 * stats.sem(log_ratio) + 10 / N
    # The reported error is the standard deviation over replicates. The relative error of that is
    # 1 / sqrt(2 replicates) for normal estimates, and sqrt(2) times as large for a kurtosis of 2.
    reported = np.sqrt(np.mean((fit.sampling_se / fit.value) ** 2))
    assert reported == pytest.approx(log_ratio.std(ddof=1), rel=4 / REPLICATES**0.5)


def test_the_skewness_of_log_normal_draws_is_rarely_significant() -> None:
    rng = np.random.default_rng(1)
    fit = fit_replicates(rng.lognormal(0.0, 0.7, (N, REPLICATES)))
    share = (np.asarray(fit.log_skew) != 0).mean()
    assert share == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / REPLICATES) ** 0.5)


def test_the_fitted_distribution_has_the_mean_of_the_draws() -> None:
    """The skewness is that of the draws if the spread is small, where the mean depends on it."""
    rng = np.random.default_rng(2)
    for draws in (stats.chi2.rvs(1, size=N, random_state=rng), 1 / rng.chisquare(8, N)):
        for power in (1.0, 1e-2, 1e-3):
            moments = draws**power
            fit = fit_replicates(moments[:, None])
            log = np.log(moments)
            skew, value = np.asarray(fit.log_skew).item(), fit.value.item()
            assert value == pytest.approx(moments.mean(), rel=1e-12)
            assert fit.sampling_se.item() == pytest.approx(stats.sem(moments), rel=1e-9)
            # The sample's variance is n / (n - 1) times the mean square deviation.
            assert predicted_mean_log(np.log(value), log.std(), 0.0, skew) == pytest.approx(
                log.mean(), abs=1e-6
            )
            # The next cumulant changes the skewness by log_sd / 4 times the excess kurtosis.
            allowed = abs(stats.kurtosis(log) - excess_kurtosis(skew)) * log.std() / 4
            if power < 1:
                assert skew == pytest.approx(stats.skew(log), abs=2 * allowed + 1e-9)


RATIO = 3000  # of mean to standard deviation of the weights


def two_layers(conv: bool) -> nn.Sequential:
    if conv:
        return nn.Sequential(nn.Conv2d(1, 64, 8), nn.Conv2d(64, 64, 1), nn.Flatten())
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("conv", [False, True])
def test_a_shared_random_mean_gives_a_chi_squared_moment(conv: bool) -> None:
    """Predict the second of two linear layers of n inputs, whose weights have the variance 1/n.

    The input has the sum 0 and the mean square 1, so the first layer's outputs y_j are N(0, 1), and
    those of the second are N(RATIO S, Q) with S = (sum of y_j) / sqrt(n) ~ N(0, 1), which all units
    share, and Q the mean of y_j^2. So m = RATIO^2 S^2 + Q.
    """
    model, s, mean = two_layers(conv), 1 / 8, RATIO**2 + 1
    weights = LayerMoments(Moments(RATIO * s, s**2), Moments(0.0, 0.0))
    names = [name for name, module in model.named_children() if hasattr(module, "weight")]
    x = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (x - x.mean()) / x.std(correction=0)
    prediction = predict_finite_width(model, dict.fromkeys(names, weights), x.view(1, 1, 8, 8))
    frame = prediction.to_frame()
    row = frame[(frame.quantity == "preact_m2") & (frame.layer == 2) & (frame.image == -1)].iloc[0]
    assert row.method == "sampled"
    assert row.value == pytest.approx(mean, abs=4 * row.sampling_se)

    draws, rng = 4000, np.random.default_rng(3)

    def uniform(*shape: int) -> np.ndarray:
        return s * (RATIO + 3**0.5 * rng.uniform(-1, 1, shape))

    m2 = np.array(
        [np.mean((uniform(64, 64) @ (uniform(64, 64) @ x.numpy())) ** 2) for _ in range(draws)]
    )
    log_value, log_sd = np.full(draws, np.log(row.value)), np.full(draws, row.log_sd)
    transformed = probability_transform(np.log(m2), log_value, log_sd, 0.0, row.log_skew)
    # The share outside each bound has the binomial error of the draws; the bound itself has about
    # that of the theory's draws.
    theory_draws = 1024 if conv else 2000
    error = (0.025 * 0.975 * (1 / draws + 1 / theory_draws)) ** 0.5
    for outside in (transformed < 0.025, transformed > 0.975):
        assert outside.mean() == pytest.approx(0.025, abs=4 * error)
    # A log-normal distribution with the same mean and spread of log m is far off.
    z = (np.log(m2) - np.log(m2).mean()) / np.log(m2).std()
    assert (z > stats.norm.ppf(0.975)).mean() < 0.025 - 4 * error
    # Its mean is too large by a factor of 3.3; the log of this factor has a standard error of 0.19,
    # because log_sd^2 has a relative error of sqrt((2 + 4) / 1024), with the excess kurtosis 4.
    assert np.exp(row.log_sd**2 / 2 + np.log(m2).mean()) > 3.3 * np.exp(-4 * 0.19) * mean
