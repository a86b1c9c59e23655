"""The first-order spread agrees with the spread of drawn networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from theory_networks import layer_moments
from torch import Tensor, nn

from fanin.inits import (
    DeltaOrthogonal,
    Moments,
    Orthogonal,
    Scheme,
    WeightShape,
    weight_layers,
)
from fanin.theory import LayerMoments
from fanin.theory.field import FieldResult, Sampling, propagate_field
from fanin.theory.finite_width.adjoints import ClosedAdjoint, is_closed
from fanin.theory.finite_width.channels import whitened_channels
from fanin.theory.finite_width.first_order import FreeFraction, log_variances
from fanin.theory.finite_width.predict import free_fraction
from fanin.theory.finite_width.simulate import simulate_networks
from fanin.theory.network import parse_network

CHANNELS = 64
DRAWS = 80  # a log-spread then has an error of 8 %
MomentsByLayer = dict[str, LayerMoments]
Activation = Callable[[], nn.Module]


def smooth_images(n_images: int, channels: int, side: int) -> Tensor:
    """Return smooth images, which have correlated neighbouring pixels like real images."""
    noise = torch.randn(
        n_images, channels, side, side, generator=torch.Generator().manual_seed(0)
    ).double()
    return 2 * F.avg_pool2d(noise, 5, 1, 2) + 0.3


def conv_network(activation: Activation) -> tuple[nn.Sequential, Tensor]:
    """Build padded convolutions, a flattening and a linear layer."""
    layers: list[nn.Module] = [nn.Conv2d(1, CHANNELS, 3, padding=1)]
    for _ in range(3):
        layers += [activation(), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)]
    layers += [activation(), nn.Flatten(), nn.Linear(64 * CHANNELS, 10)]
    return nn.Sequential(*layers), smooth_images(1, 1, 8)


def pooled_network(activation: Activation) -> tuple[nn.Sequential, Tensor]:
    """Build a network with overlapping and plain max-pools, an average-pool and linear layers."""
    channels = CHANNELS
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 5), activation(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(channels, channels, 3, padding=1), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, channels, 3, padding=1), activation(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(channels, channels), activation(), nn.Linear(channels, 10)),
    ), smooth_images(1, 1, 20)


def averaged_network(activation: Activation) -> tuple[nn.Sequential, Tensor]:
    """Build a network with a max-pool and a global average-pool, which needs full covariances."""
    channels = CHANNELS
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, channels, 3, padding=1), activation()),
        *(nn.Conv2d(channels, channels, 3, padding=1), activation(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(channels, 10)),
    ), smooth_images(1, 1, 12)


def propagate_images(model: nn.Module, moments: MomentsByLayer, x: Tensor) -> FieldResult:
    sampling = Sampling(repeats=1)
    return propagate_field(
        model, moments, x, joint=len(x) > 1, sampling=sampling, keep_covariances=True
    )


def assert_spreads_agree(
    model: nn.Module,
    moments: MomentsByLayer,
    x: Tensor,
    draws: int,
    free_fractions: list[FreeFraction] | None = None,
) -> None:
    """Compare predicted and measured log-spreads.

    The measured one has a relative error of sqrt((kurtosis - 1) / 4n), the predicted one of 5 %.
    The next order in 1 / width is about depth / width of the spread.
    """
    net = parse_network(model, tuple(x.shape[1:]))
    names = [stage.name for stage in net.stages]
    (layers,) = propagate_images(model, moments, x).passes
    predicted = log_variances(
        layers, free_fractions or [FreeFraction()] * len(names), images_per_field=len(x)
    )
    samples = simulate_networks(model, net, moments, x, draws=draws).values
    for quantity, variance in predicted.items():
        log = samples[quantity].mean(1).log().numpy()
        for layer in range(len(names)):
            if (
                log[:, layer].std() < 1e-6
            ):  # constant: orthogonal first layer, unit cotangent at the last
                assert variance[layer] < 1e-6
                continue
            ratio = log[:, layer].std(ddof=1) / variance[layer] ** 0.5
            kurtosis = stats.kurtosis(log[:, layer], fisher=False)
            se = np.hypot(((kurtosis - 1) / (4 * draws)) ** 0.5, 0.05)
            assert abs(np.log(ratio)) < 3.5 * se + len(names) / CHANNELS, (quantity, layer, ratio)


@pytest.mark.parametrize(
    ("network", "activation", "sigma_w2"),
    [
        (conv_network, nn.ReLU, 2.0),
        (conv_network, nn.Tanh, 1.5),
        (pooled_network, nn.ReLU, 2.0),
        (averaged_network, nn.Tanh, 1.5),
    ],
)
def test_first_order_spread_agrees_with_drawn_networks(
    network: Callable[[Activation], tuple[nn.Sequential, Tensor]],
    activation: Activation,
    sigma_w2: float,
) -> None:
    model, x = network(activation)
    moments = layer_moments(model, lambda s: sigma_w2 / s.fan_in, bias=Moments(0.0, 0.01))
    assert_spreads_agree(model, moments, x, draws=DRAWS)


@pytest.mark.parametrize(
    ("scheme", "activation", "gain"),
    [(Orthogonal(), nn.ReLU, 2**0.5), (DeltaOrthogonal(), nn.Tanh, 1.0)],
)
def test_spread_of_orthogonal_weights_agrees_with_drawn_networks(
    scheme: Scheme, activation: Activation, gain: float
) -> None:
    channels = CHANNELS
    model = nn.Sequential(
        *(nn.Conv2d(3, channels, 3, padding=1), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, channels, 3, padding=1), activation(), nn.Flatten()),
        *(nn.Linear(25 * channels, channels), activation(), nn.Linear(channels, 10)),
    )
    modules, moments = weight_layers(model), {}
    for name, layer in modules.items():
        weight = scheme.moments(WeightShape.of(layer)).scaled(gain)
        moments[name] = LayerMoments(weight, Moments(0.0, 0.0), "orthogonal")
    free_fractions = [free_fraction(layer, moments[name]) for name, layer in modules.items()]
    assert_spreads_agree(model, moments, smooth_images(1, 3, 10), DRAWS, free_fractions)


def test_spread_of_the_mean_over_images_agrees_with_drawn_networks() -> None:
    model, _ = conv_network(nn.Tanh)
    moments = layer_moments(model, lambda s: 1.5 / s.fan_in)
    assert_spreads_agree(model, moments, smooth_images(3, 1, 8), draws=DRAWS)


def test_spread_of_a_network_that_ends_in_a_map() -> None:
    channels = CHANNELS
    model = nn.Sequential(
        *(nn.Conv2d(1, channels, 3), nn.Tanh(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, 20, 3), nn.Flatten()),
    )
    assert_spreads_agree(
        model, layer_moments(model, lambda s: 1 / s.fan_in), smooth_images(1, 1, 12), draws=DRAWS
    )


def test_spread_of_a_relu_layer_is_five_over_its_width() -> None:
    """Hanin & Nica (2020), theorem 1: kappa = 5, and 2 / n from the layer itself."""
    n = 4096  # so wide that only the ten logits have a spread of order 1
    model = nn.Sequential(
        *(nn.Conv2d(1, n, 1), nn.ReLU(), nn.Flatten(), nn.Linear(n, n)),
        *(nn.ReLU(), nn.Linear(n, 10)),
    )
    moments = layer_moments(model, lambda s: 2 / s.fan_in)
    (layers,) = propagate_images(model, moments, torch.ones(1, 1, 1, 1)).passes
    variance = log_variances(layers, [FreeFraction()] * 3)
    expected = [2 / n, (5 + 2) / n]
    # A channel's influence x^2 has kurtosis 28, so 16,384 samples give its variance within 4 %.
    np.testing.assert_allclose(variance["preact_m2"][:2], expected, rtol=0.16)
    np.testing.assert_allclose(variance["vjp_m2"], [10 / n, 5 / n, 0], rtol=0.2)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_closed_adjoints_equal_finite_differences(activation: Activation) -> None:
    """Scale the weights of the first layer and compare with the differences of later moments."""
    model, x = averaged_network(activation)

    def log_moments(scale: float) -> Tensor:
        moments = layer_moments(model, lambda s: 1.5 / s.fan_in)
        first = moments["0"]
        moments["0"] = replace(first, weight=first.weight.scaled(scale))
        (layers,) = propagate_images(model, moments, x).passes
        return torch.stack([layer.preact.m2.mean() for layer in layers]).log()

    (layers,) = propagate_images(model, layer_moments(model, lambda s: 1.5 / s.fan_in), x).passes
    step = 1e-3
    change = log_moments(1 + step) - log_moments(1 - step)
    finite_difference = change / (4 * step)  # by the log variance
    # Go from log m2 of the last layer down to the covariance of the first.
    forms = torch.full((1, 1, 1), 1 / float(layers[-1].preact.m2.sum())).double()
    for next_layer, layer in zip(layers[:0:-1], layers[-2::-1], strict=True):
        forms = next_layer.weights.group_in_channels * next_layer.taps.backward_products(
            forms, next_layer.weights.var
        )
        if is_closed(layer.interlayer, layer.preact):
            forms = ClosedAdjoint(layer).field_adjoint(forms)
        else:
            samples = whitened_channels(layer, 0, layer.name)
            no_cotangent_forms = [torch.zeros(samples.y.shape[-1]).double()]
            forms = samples.to_points(samples.normals_adjoint(forms, no_cotangent_forms))
    derivative = (forms[0] * layers[0].preact.covariance[0, 0, 0]).sum()
    # The field and the channels use different samples, each with an error of 1 %.
    assert abs(float(derivative - finite_difference[-1])) < 0.05
