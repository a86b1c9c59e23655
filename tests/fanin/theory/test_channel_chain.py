"""Sampled channels have the distribution of drawn networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from theory_networks import layer_moments
from torch import Tensor, nn

from fanin.inits import Moments, WeightShape
from fanin.theory import LayerMoments
from fanin.theory.field import Sampling, propagate_field
from fanin.theory.finite_width import predict_finite_width
from fanin.theory.finite_width.channel_chain import sample_channels
from fanin.theory.finite_width.channel_laws import reason_against_samples
from fanin.theory.finite_width.simulate import DrawMoments, simulate_networks
from fanin.theory.network import parse_network

CHANNELS = 24
SAMPLES = 500
DRAWS = 200
LEVEL = 1e-3
MomentsByLayer = dict[str, LayerMoments]


def smooth_images(n_images: int, channels: int, side: int) -> Tensor:
    noise = torch.randn(
        n_images, channels, side, side, generator=torch.Generator().manual_seed(0)
    ).double()
    return 2 * F.avg_pool2d(noise, 5, 1, 2) + 0.3


def shifted(model: nn.Module, ratio: float, bias: float = 0.0) -> MomentsByLayer:
    """Return weights of variance 1.5 / fan_in, with a mean of `ratio` standard deviations."""

    def var(shape: WeightShape) -> float:
        return 1.5 / shape.fan_in

    return layer_moments(model, var, lambda s: ratio * var(s) ** 0.5, Moments(0.0, bias))


def sample(model: nn.Module, moments: MomentsByLayer, x: Tensor, draws: int) -> DrawMoments:
    (layers,) = propagate_field(
        *(model, moments, x),
        joint=len(x) > 1,
        sampling=Sampling(repeats=1),
        keep_covariances=True,
    ).passes
    return sample_channels(layers, x, draws=draws)


def assert_samples_agree(model: nn.Module, moments: MomentsByLayer, x: Tensor) -> None:
    """Compare mean and standard deviation of log-moments with those of drawn networks.

    The law neglects relative effects of order 1 / channels in each layer.
    """
    net = parse_network(model, tuple(x.shape[1:]))
    sampled = sample(model, moments, x, SAMPLES).values
    drawn = simulate_networks(model, net, moments, x, draws=DRAWS, seed=1).values
    neglected = len(net.stages) / CHANNELS
    for quantity in ("preact_m2", "preact_var", "vjp_m2", "weight_vjp_m2"):
        a, b = (v[quantity].mean(1).log().numpy() for v in (sampled, drawn))
        for layer in range(len(net.stages)):
            first, second = a[:, layer], b[:, layer]
            if second.std() < 1e-6:  # the cotangent at the logits has a fixed length
                assert first.std() < 1e-5
                continue
            sd = second.std(ddof=1)
            se = sd * (1 / SAMPLES + 1 / DRAWS) ** 0.5
            difference = first.mean() - second.mean()
            assert abs(difference) < 4 * se + neglected, (quantity, layer, difference)
            kurtosis = stats.kurtosis(second, fisher=False)
            sd_se = ((kurtosis - 1) / 4 * (1 / SAMPLES + 1 / DRAWS)) ** 0.5
            ratio = np.log(first.std(ddof=1) / sd)
            assert abs(ratio) < 4 * sd_se + neglected, (quantity, layer, ratio)


def plain(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, CHANNELS, 3, padding=1), activation, nn.MaxPool2d(2)),
        *(nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2), activation),
        *(nn.Flatten(), nn.Linear(9 * CHANNELS, CHANNELS), activation, nn.Linear(CHANNELS, 10)),
    )


def grouped(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(2, CHANNELS, 3, groups=2), activation),
        *(nn.Conv2d(CHANNELS, CHANNELS, 3, groups=2), activation, nn.AvgPool2d(2)),
        *(nn.Conv2d(CHANNELS, CHANNELS, 2), activation, nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(CHANNELS, 10)),
    )


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.Sigmoid()])
@pytest.mark.parametrize("ratio", [0.2, 1.0])
def test_weights_of_nonzero_mean(activation: nn.Module, ratio: float) -> None:
    model = plain(activation)
    assert_samples_agree(model, shifted(model, ratio, bias=0.02), smooth_images(1, 1, 14))


def test_weights_of_nonzero_mean_in_groups() -> None:
    model = grouped(nn.Tanh())
    assert_samples_agree(model, shifted(model, 0.3), smooth_images(1, 2, 10))


def test_the_mean_over_images() -> None:
    model = plain(nn.ReLU())
    assert_samples_agree(model, shifted(model, 0.3), smooth_images(2, 1, 14))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(CHANNELS), nn.GroupNorm(1, CHANNELS)])
def test_normalization(norm: nn.Module) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(1, CHANNELS, 3), norm, nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(CHANNELS, CHANNELS, 3), norm, nn.Tanh(), nn.Flatten()),
        nn.Linear(4 * 4 * CHANNELS, 10),
    ).train()
    assert_samples_agree(model, shifted(model, 0.0), smooth_images(2, 1, 14))


def test_channel_dropout() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(1, CHANNELS, 3), nn.ReLU(), nn.Dropout2d(0.3)),
        *(nn.Conv2d(CHANNELS, CHANNELS, 3), nn.Tanh(), nn.Flatten()),
        nn.Linear(4 * 4 * CHANNELS, 10),
    ).train()
    assert_samples_agree(model, shifted(model, 0.0), smooth_images(1, 1, 8))


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_the_backward_moment_is_a_constant_plus_chi_squared(ratio: float) -> None:
    """Compare with the law of a cotangent of one linear layer: own part and shared square.

    The cotangent of unit j at n logits is w_j . u with w = s (ratio + z) and |u|^2 = n. So its mean
    square over many units is s^2 (n + ratio^2 (sum of u)^2), and (sum of u)^2 / n^2 is
    Beta(1/2, (n - 1) / 2): chi-squared with one degree of freedom for large n.
    """
    n_logits, channels = 10, 2048
    model = nn.Sequential(
        nn.Conv2d(1, channels, 1), nn.Identity(), nn.Flatten(), nn.Linear(4 * channels, n_logits)
    )
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    moments = layer_moments(model, lambda s: 1 / s.fan_in)
    s2 = float(moments["3"].weight.var)
    moments["3"] = LayerMoments(Moments(ratio * s2**0.5, s2), Moments(0.0, 0.0))
    draws = 500
    measured = sample(model, moments, x, draws).values["vjp_m2"][:, 0, 0].numpy()
    # The mean over channels adds a variation of 1 / channels.
    beta = stats.beta(0.5, (n_logits - 1) / 2)
    own, scale = s2 * n_logits, s2 * n_logits**2 * ratio**2
    noise = 4 / channels**0.5

    def distribution(m: np.ndarray) -> np.ndarray:
        return beta.cdf((m - own) / scale)

    # Kolmogorov's bound, on both sides of the noise.
    bound = stats.kstwo.ppf(1 - LEVEL, draws)
    ranks = np.arange(1, draws + 1) / draws
    m = np.sort(measured)
    assert (ranks - 1 / draws <= distribution(m * (1 + noise)) + bound).all()
    assert (ranks >= distribution(m * (1 - noise)) - bound).all()


def test_uniform_biases() -> None:
    """The mean square of C uniform biases has the variance 0.8 Var[b]^2 / C."""
    model, draws = nn.Sequential(nn.Conv2d(1, CHANNELS, 1), *plain(nn.ReLU())[1:]), 4000
    moments = shifted(model, 0.0)
    moments["0"] = LayerMoments(Moments(0.0, 0.0), Moments.uniform(0.0, 0.5))
    (layers,) = propagate_field(
        model, moments, smooth_images(1, 1, 14), sampling=Sampling(repeats=1), keep_covariances=True
    ).passes
    measured = sample_channels(layers, smooth_images(1, 1, 14), draws=draws).values["preact_m2"]
    variance = float((measured[:, 0, 0] / 0.5).var())
    assert variance == pytest.approx(0.8 / CHANNELS, rel=4 * (2 / draws) ** 0.5)


def test_huge_moments_need_float64() -> None:
    model = plain(nn.ReLU())
    x = smooth_images(1, 1, 14)
    unit = sample(model, shifted(model, 0.3), x, 8).values
    huge = sample(model, shifted(model, 0.3), 1e30 * x, 8).values
    # Float32 rounds the first.
    torch.testing.assert_close(huge["preact_m2"], 1e60 * unit["preact_m2"], rtol=1e-3, atol=0)
    torch.testing.assert_close(huge["vjp_m2"], unit["vjp_m2"], rtol=1e-3, atol=0)


def test_predictions_of_single_images_do_not_depend_on_the_others() -> None:
    model = plain(nn.Tanh())
    x, moments = smooth_images(6, 1, 14), shifted(model, 0.3)
    both = predict_finite_width(model, moments, x, mean=False)
    one = predict_finite_width(model, moments, x[:1], mean=False)
    assert both.method == one.method == "sampled"
    law, alone = both.distributions["vjp_m2"], one.distributions["vjp_m2"]
    # Different numbers of draws, each with the given standard error.
    se = np.hypot(law.sampling_se[0], alone.sampling_se[0])
    assert (np.abs(law.value[0] - alone.value[0]) <= 4 * se + 1e-9).all()
    assert np.isnan(law.log_sd[-1]).all()


def test_reasons_against_samples() -> None:
    model = plain(nn.ReLU())
    net = parse_network(model, (1, 14, 14))
    moments = shifted(model, 0.3)
    assert reason_against_samples(model, net, moments, 1) is None
    assert "1024 positions" in str(reason_against_samples(model, net, moments, 8))
    deep = nn.Sequential(nn.Conv2d(1, 8, 1), *(nn.Conv2d(8, 8, 1) for _ in range(3)))
    net = parse_network(deep, (1, 32, 32))
    assert "correlations" in str(reason_against_samples(deep, net, shifted(deep, 0.0), 1))
    assert "memory" in str(reason_against_samples(deep, net, shifted(deep, 0.3), 1))
    net = parse_network(model, (1, 14, 14))
    orthogonal = {
        name: LayerMoments(layer.weight, layer.bias, "orthogonal")
        for name, layer in moments.items()
    }
    assert reason_against_samples(model, net, orthogonal, 1) == "weights are orthogonal"
    model[1] = nn.LocalResponseNorm(3)
    net = parse_network(model, (1, 14, 14))
    assert "LocalResponseNorm" in str(reason_against_samples(model, net, moments, 1))
