"""The spread that differentiating the field's recursion predicts is that of drawn networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from theory_networks import declared
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
DRAWS = 80  # know a log-spread to 8 %
Declared = dict[str, LayerMoments]
Activation = Callable[[], nn.Module]


def blobs(n_images: int, channels: int, side: int) -> Tensor:
    """Smooth images: neighbouring pixels are correlated, as real ones are."""
    noise = torch.randn(
        n_images, channels, side, side, generator=torch.Generator().manual_seed(0)
    ).double()
    return 2 * F.avg_pool2d(noise, 5, 1, 2) + 0.3


def plain(activation: Activation) -> tuple[nn.Sequential, Tensor]:
    """Padded convolutions, flattened."""
    layers: list[nn.Module] = [nn.Conv2d(1, CHANNELS, 3, padding=1)]
    for _ in range(3):
        layers += [activation(), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)]
    layers += [activation(), nn.Flatten(), nn.Linear(64 * CHANNELS, 10)]
    return nn.Sequential(*layers), blobs(1, 1, 8)


def pooled(activation: Activation) -> tuple[nn.Sequential, Tensor]:
    """Overlapping and plain max-pools, an average pool, dense layers."""
    c = CHANNELS
    return nn.Sequential(
        *(nn.Conv2d(1, c, 5), activation(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(c, c, 3, padding=1), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(c, c, 3, padding=1), activation(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(c, c), activation(), nn.Linear(c, 10)),
    ), blobs(1, 1, 20)


def averaged(activation: Activation) -> tuple[nn.Sequential, Tensor]:
    """A global average pool, behind a max-pool: whole covariances, forward and backward."""
    c = CHANNELS
    return nn.Sequential(
        *(nn.Conv2d(1, c, 3, padding=1), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(c, c, 3, padding=1), activation()),
        *(nn.Conv2d(c, c, 3, padding=1), activation(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(c, 10)),
    ), blobs(1, 1, 12)


def walked(model: nn.Module, moments: Declared, x: Tensor) -> FieldResult:
    sampling = Sampling(repeats=1)
    return propagate_field(model, moments, x, joint=len(x) > 1, sampling=sampling, keep_covariances=True)


def assert_spreads_agree(
    model: nn.Module,
    moments: Declared,
    x: Tensor,
    draws: int,
    free_fractions: list[FreeFraction] | None = None,
) -> None:
    """Within what `draws` know, the samples of a channel know, and an order of 1 / width.

    The ratio of two log-spreads: drawn ones are known to sqrt((kurtosis - 1) / 4n); the influence's
    own samples know 5 %. The next order in 1 / width is some depth / width of the spread.
    """
    net = parse_network(model, tuple(x.shape[1:]))
    names = [stage.name for stage in net.stages]
    (layers,) = walked(model, moments, x).passes
    predicted = log_variances(
        layers, free_fractions or [FreeFraction()] * len(names), images_per_field=len(x)
    )
    samples = simulate_networks(model, net, moments, x, draws=draws).values
    for quantity, variance in predicted.items():
        log = samples[quantity].mean(1).log().numpy()
        for layer in range(len(names)):
            if log[:, layer].std() < 1e-6:  # orthogonal in the first layer, unit cotangent in last
                assert variance[layer] < 1e-6
                continue
            ratio = log[:, layer].std(ddof=1) / variance[layer] ** 0.5
            kurtosis = stats.kurtosis(log[:, layer], fisher=False)
            se = np.hypot(((kurtosis - 1) / (4 * draws)) ** 0.5, 0.05)
            assert abs(np.log(ratio)) < 3.5 * se + len(names) / CHANNELS, (quantity, layer, ratio)


@pytest.mark.parametrize(
    ("network", "activation", "sigma_w2"),
    [
        (plain, nn.ReLU, 2.0),
        (plain, nn.Tanh, 1.5),
        (pooled, nn.ReLU, 2.0),
        (averaged, nn.Tanh, 1.5),
    ],
)
def test_spread_forward_backward_and_of_weight_gradients(
    network: Callable[[Activation], tuple[nn.Sequential, Tensor]],
    activation: Activation,
    sigma_w2: float,
) -> None:
    model, x = network(activation)
    moments = declared(model, lambda s: sigma_w2 / s.fan_in, bias=Moments(0.0, 0.01))
    assert_spreads_agree(model, moments, x, draws=DRAWS)


@pytest.mark.parametrize(
    ("scheme", "activation", "gain"),
    [(Orthogonal(), nn.ReLU, 2**0.5), (DeltaOrthogonal(), nn.Tanh, 1.0)],
)
def test_orthogonal_weights_scatter_less(
    scheme: Scheme, activation: Activation, gain: float
) -> None:
    c = CHANNELS
    model = nn.Sequential(
        *(nn.Conv2d(3, c, 3, padding=1), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(c, c, 3, padding=1), activation(), nn.Flatten()),
        *(nn.Linear(25 * c, c), activation(), nn.Linear(c, 10)),
    )
    modules, moments = weight_layers(model), {}
    for name, layer in modules.items():
        weight = scheme.moments(WeightShape.of(layer)).scaled(gain)
        moments[name] = LayerMoments(weight, Moments(0.0, 0.0), "orthogonal")
    free_fractions = [free_fraction(layer, moments[name]) for name, layer in modules.items()]
    assert_spreads_agree(model, moments, blobs(1, 3, 10), DRAWS, free_fractions)


def test_the_mean_over_images_has_their_joint_spread() -> None:
    model, _ = plain(nn.Tanh)
    moments = declared(model, lambda s: 1.5 / s.fan_in)
    assert_spreads_agree(model, moments, blobs(3, 1, 8), draws=DRAWS)


def test_a_network_that_ends_in_a_map_has_a_random_cotangent_at_every_point() -> None:
    c = CHANNELS
    model = nn.Sequential(
        *(nn.Conv2d(1, c, 3), nn.Tanh(), nn.MaxPool2d(2)),
        *(nn.Conv2d(c, 20, 3), nn.Flatten()),
    )
    assert_spreads_agree(
        model, declared(model, lambda s: 1 / s.fan_in), blobs(1, 1, 12), draws=DRAWS
    )


def test_a_rectifier_layer_scatters_by_five_over_its_width() -> None:
    """Hanin & Nica (2020), theorem 1: kappa = 5, and 2 / n of the layer itself."""
    n = 4096  # wide, so that ten logits' own scatter and nothing else is left of order 1
    model = nn.Sequential(
        *(nn.Conv2d(1, n, 1), nn.ReLU(), nn.Flatten(), nn.Linear(n, n)),
        *(nn.ReLU(), nn.Linear(n, 10)),
    )
    moments = declared(model, lambda s: 2 / s.fan_in)
    (layers,) = walked(model, moments, torch.ones(1, 1, 1, 1)).passes
    variance = log_variances(layers, [FreeFraction()] * 3)
    expected = [2 / n, (5 + 2) / n]
    # A channel's influence x^2 has kurtosis 28: 16,384 samples know its variance to 4 %.
    np.testing.assert_allclose(variance["preact_m2"][:2], expected, rtol=0.16)
    np.testing.assert_allclose(variance["vjp_m2"], [10 / n, 5 / n, 0], rtol=0.2)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_closed_adjoints_are_derivatives_of_the_recursion(activation: Activation) -> None:
    """Against differences: a layer's weights scaled by a little scale what follows."""
    model, x = averaged(activation)

    def log_moments(scale: float) -> Tensor:
        moments = declared(model, lambda s: 1.5 / s.fan_in)
        first = moments["0"]
        moments["0"] = replace(first, weight=first.weight.scaled(scale))
        (layers,) = walked(model, moments, x).passes
        return torch.stack([layer.preact.m2.mean() for layer in layers]).log()

    (layers,) = walked(model, declared(model, lambda s: 1.5 / s.fan_in), x).passes
    step = 1e-3
    measured = (log_moments(1 + step) - log_moments(1 - step)) / (4 * step)  # by log variance
    # Down from log m2 of the last layer to the covariance of the first.
    forms = torch.full((1, 1, 1), 1 / float(layers[-1].preact.m2.sum())).double()
    for above, layer in zip(layers[:0:-1], layers[-2::-1], strict=True):
        forms = above.weights.group_in_channels * above.taps.backward_products(
            forms, above.weights.var
        )
        if is_closed(layer.interlayer, layer.preact):
            forms = ClosedAdjoint(layer).field_adjoint(forms)
        else:
            channels = whitened_channels(layer, 0, layer.name)
            nothing = [torch.zeros(channels.y.shape[-1]).double()]
            forms = channels.to_points(channels.normals_adjoint(forms, nothing))
    derivative = (forms[0] * layers[0].preact.covariance[0, 0, 0]).sum()
    # Samples of the walk and of the channels are other ones: 1 % of a moment each.
    assert abs(float(derivative - measured[-1])) < 0.05
