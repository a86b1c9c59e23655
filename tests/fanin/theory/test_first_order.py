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
    Init,
    Moments,
    Orthogonal,
    Scheme,
    WeightShape,
    weight_layers,
)
from fanin.theory import LayerMoments
from fanin.theory.field import FieldResult, Sampling, propagate_field
from fanin.theory.finite_width.adjoints import ClosedAdjoint, is_closed, quadratic_forms
from fanin.theory.finite_width.channels import whitened_channels
from fanin.theory.finite_width.first_order import log_moments
from fanin.theory.finite_width.free_fraction import (
    FreeFraction,
    free_fraction,
    group_similarity,
)
from fanin.theory.finite_width.grouped import ungroup_first_layer
from fanin.theory.finite_width.simulate import simulate_networks
from fanin.theory.moments import declared_moments
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
    layers = ungroup_first_layer(*propagate_images(model, moments, x).passes, len(x))
    predicted = log_moments(
        layers, free_fractions or [FreeFraction()] * len(names), images_per_field=len(x)
    )
    samples = simulate_networks(model, net, moments, x, draws=draws).values
    for quantity, variance in predicted.variance.items():
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


@pytest.mark.parametrize(
    ("scheme", "activation", "sigma_w2"),
    [
        (Orthogonal(), nn.ReLU, 2.0),
        (Orthogonal(), nn.Sigmoid, 1.0),
        (Orthogonal(per_group=True), nn.Tanh, 1.0),
    ],
)
def test_spread_of_grouped_orthogonal_weights_agrees_with_drawn_networks(
    scheme: Scheme, activation: Activation, sigma_w2: float
) -> None:
    channels = 4 * CHANNELS  # four groups
    model = nn.Sequential(
        *(nn.Conv2d(1, channels, 3), activation()),
        *(nn.Conv2d(channels, channels, 1, groups=4), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, channels, 1, groups=4), activation(), nn.Flatten()),
        nn.Linear(4 * channels, 10),
    )
    modules = weight_layers(model)
    init = Init(scheme, gain=sigma_w2**0.5)
    moments, x = declared_moments(model, init), smooth_images(1, 1, 6)
    (layers,) = propagate_images(model, moments, x).passes
    free_fractions = [
        free_fraction(modules[layer.name], moments[layer.name], group_similarity(layer))
        for layer in layers
    ]
    assert_spreads_agree(model, moments, x, DRAWS, free_fractions)


@pytest.mark.parametrize(
    ("per_group", "cosine"), [(False, 0.0), (False, 0.6), (False, 1.0), (True, 0.6)]
)
@pytest.mark.parametrize(("outputs", "inputs"), [(48, 96), (24, 192)])
def test_free_fractions_of_grouped_orthogonal_weights(
    outputs: int, inputs: int, per_group: bool, cosine: float
) -> None:
    """Compare the variance of |W x|^2 and |W^T d|^2 with that of independent weights.

    The inputs of the four groups are unit vectors with the given cosines. The measured variance has
    a relative error of sqrt(2 / draws). The next order of the law is below 3 / size: for one group
    it has the factor size / (size + 2).
    """
    conv, groups, draws = nn.Conv2d(inputs, outputs, 1, groups=4), 4, 3000
    weight, scheme = WeightShape.of(conv), Orthogonal(per_group)
    moments = declared_moments(nn.Sequential(conv), Init(scheme))["0"]
    generator = torch.Generator().manual_seed(0)
    w = torch.stack([scheme.sample(weight, generator).flatten(1) for _ in range(draws)])
    w = w.unflatten(1, (groups, -1))
    group_out, group_in = w.shape[2:]
    x = (1 - cosine) ** 0.5 * torch.eye(groups, group_in, dtype=torch.float64)
    x[:, groups] = cosine**0.5
    d = torch.eye(groups, group_out, dtype=torch.float64)
    size = max(outputs // groups if per_group else outputs, group_in)
    expected = free_fraction(conv, moments, cosine**2)
    for vectors, fraction, units in (
        (torch.einsum("dgoi,gi->dgo", w, x), expected.forward, group_out),
        (torch.einsum("dgoi,go->dgi", w, d), expected.backward, group_in),
    ):
        independent = 2 * groups * units * float(moments.weight.var) ** 2
        measured = float(vectors.square().sum((1, 2)).var()) / independent
        if fraction == 0:  # lengths are preserved in every draw
            assert measured < 1e-20
        else:
            assert abs(measured - fraction) < 4 * (2 / draws) ** 0.5 + 3 / size


def test_similarity_of_groups_behind_a_relu() -> None:
    """E[x]^2 / E[x^2] = 1 / pi for x = relu(z) (Cho & Saul 2009, at angles 0 and pi / 2)."""
    conv = nn.Conv2d(8, 8, 1, groups=2)
    for activation, cosine in ((nn.ReLU(), 1 / np.pi), (nn.Tanh(), 0.0)):
        model = nn.Sequential(nn.Conv2d(1, 8, 1), activation, conv)
        moments = layer_moments(model, lambda s: 1.0)
        (layers,) = propagate_images(model, moments, torch.ones(1, 1, 1, 1)).passes
        assert group_similarity(layers[1]) == pytest.approx(cosine**2, rel=1e-9, abs=1e-20)
        assert group_similarity(layers[0]) == 0


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


@pytest.mark.parametrize(
    "pool", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(2), nn.AvgPool2d(3, stride=2, padding=1)]
)
def test_spread_of_a_network_that_ends_in_average_pooling(pool: nn.Module) -> None:
    channels = CHANNELS
    model = nn.Sequential(
        *(nn.Conv2d(1, channels, 3), nn.Tanh(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, 20, 3), pool, nn.Flatten()),
    )
    moments = layer_moments(model, lambda s: 1 / s.fan_in)
    assert_spreads_agree(model, moments, smooth_images(1, 1, 14), draws=DRAWS)


@pytest.mark.parametrize("n_images", [1, 2])
@pytest.mark.parametrize(
    "readout",
    [
        (nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        (nn.Tanh(),),
        (nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2)),
    ],
)
def test_spread_of_a_network_that_ends_in_an_activation(
    readout: tuple[nn.Module, ...], n_images: int
) -> None:
    channels = CHANNELS
    model = nn.Sequential(
        *(nn.Conv2d(1, channels, 3), nn.Tanh(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, 40, 3), *readout, nn.Flatten()),
    )
    moments = layer_moments(model, lambda s: 1.5 / s.fan_in)
    assert_spreads_agree(model, moments, smooth_images(n_images, 1, 14), draws=2 * DRAWS)


@pytest.mark.parametrize("n_images", [1, 2])
def test_spread_of_a_network_with_a_grouped_first_layer(n_images: int) -> None:
    channels = 3 * 24
    model = nn.Sequential(
        *(nn.Conv2d(3, channels, 3, groups=3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, CHANNELS, 3), nn.Tanh(), nn.Flatten(), nn.Linear(9 * CHANNELS, 10)),
    )
    x = smooth_images(n_images, 3, 12)
    x[:, 0] *= 3  # one group has most of the variance
    moments = layer_moments(model, lambda s: 1.5 / s.fan_in)
    assert_spreads_agree(model, moments, x, draws=DRAWS)


def test_spread_of_a_relu_layer_is_five_over_its_width() -> None:
    """Hanin & Nica (2020), theorem 1: kappa = 5, and 2 / n from the layer itself."""
    n = 4096  # so wide that only the ten logits have a spread of order 1
    model = nn.Sequential(
        *(nn.Conv2d(1, n, 1), nn.ReLU(), nn.Flatten(), nn.Linear(n, n)),
        *(nn.ReLU(), nn.Linear(n, 10)),
    )
    moments = layer_moments(model, lambda s: 2 / s.fan_in)
    (layers,) = propagate_images(model, moments, torch.ones(1, 1, 1, 1)).passes
    variance = log_moments(layers, [FreeFraction()] * 3).variance
    expected = [2 / n, (5 + 2) / n]
    # A channel's influence x^2 has kurtosis 28, so 16,384 samples give its variance within 4 %.
    np.testing.assert_allclose(variance["preact_m2"][:2], expected, rtol=0.16)
    np.testing.assert_allclose(variance["vjp_m2"], [10 / n, 5 / n, 0], rtol=0.2)


def test_spread_of_uniform_biases() -> None:
    """A layer of uniform biases has E[b^4] = 1.8 Var[b]^2, where normal ones have 3."""
    n = 4096
    model = nn.Sequential(
        *(nn.Conv2d(1, n, 1), nn.ReLU(), nn.Flatten(), nn.Linear(n, n)),
        *(nn.ReLU(), nn.Linear(n, n)),
    )
    moments = layer_moments(model, lambda s: 0.0)
    moments["3"] = LayerMoments(Moments(0.0, 0.0), Moments.uniform(0.0, 1.0))
    moments["5"] = LayerMoments(Moments(0.0, 2 / n), Moments(0.0, 0.0))
    (layers,) = propagate_images(model, moments, torch.ones(1, 1, 1, 1)).passes
    variance = log_moments(layers, [FreeFraction()] * 3).variance["preact_m2"]
    # The variance of b^2 / E[b^2] is 0.8, and that of relu(b)^2 / E[relu(b)^2] is 2 * 1.8 - 1.
    assert variance[1] == pytest.approx(0.8 / n, rel=1 / n)
    # relu(b)^4 has a variance of 2.3 squared means, which gives the error of the sampled variance.
    assert variance[2] == pytest.approx((2.6 + 2) / n, rel=4 * 2.3 / 16_384**0.5)


def test_spread_of_uniform_weights_in_the_first_layer() -> None:
    """The mean square of a channel is w^T A w, whose variance has closed form."""
    x, n = smooth_images(1, 1, 12), 4096
    model = nn.Sequential(nn.Conv2d(1, n, 3), nn.Flatten(), nn.Linear(100 * n, 10))
    moments = layer_moments(model, lambda s: 1 / s.fan_in)
    moments["0"] = LayerMoments(Moments.uniform(0.0, 1 / 9), Moments.uniform(0.0, 0.5))
    (layers,) = propagate_images(model, moments, x).passes
    patches = torch.cat([F.unfold(x, 3)[0], torch.ones(1, 100)])
    patches = patches * torch.tensor([1 / 9] * 9 + [0.5]).sqrt()[:, None]
    a = patches @ patches.T / 100
    expected = (2 * a.square().sum() - 1.2 * a.diagonal().square().sum()) / a.trace().square() / n
    measured = log_moments(layers, [FreeFraction()] * 2).variance["preact_m2"][0]
    assert measured == pytest.approx(float(expected), rel=2 / n)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
def test_shift_of_the_mean_agrees_with_an_exact_recursion(activation: Activation) -> None:
    """At a single point, q' = sigma_w^2 mean_c phi(sqrt(q) z_c)^2, and likewise backward."""
    n, sigma_w2, draws = 64, 2.0, 40_000
    phi = activation()
    layers: list[nn.Module] = [nn.Conv2d(1, n, 1)]
    for _ in range(3):
        layers += [phi, nn.Conv2d(n, n, 1)]
    model = nn.Sequential(*layers)
    moments = layer_moments(model, lambda s: sigma_w2 / s.fan_in)
    (field,) = propagate_images(model, moments, torch.ones(1, 1, 1, 1)).passes
    shift = log_moments(field, [FreeFraction()] * 4).shift

    stream = torch.Generator().manual_seed(0)
    q, slopes = torch.full((draws,), sigma_w2).double(), []
    preact_m2 = [q]
    for _ in range(3):
        z = torch.randn(draws, n, generator=stream, dtype=torch.float64)
        y = (q.sqrt()[:, None] * z).requires_grad_()
        x = phi(y)
        (slope,) = torch.autograd.grad(x.sum(), y)
        slopes.append(sigma_w2 * slope.square().mean(1))
        q = sigma_w2 * x.detach().square().mean(1)
        preact_m2.append(q)
    vjp_m2 = [torch.stack(slopes[index:]).prod(0) for index in range(3)]
    for quantity, measured in (("preact_m2", preact_m2), ("vjp_m2", vjp_m2)):
        for index, values in enumerate(measured):
            layer = field[index]
            moment = layer.preact if quantity == "preact_m2" else layer.cotangent
            assert moment is not None
            expected = float((values.mean() / moment.m2).log())
            se = float(values.std() / values.mean()) / draws**0.5
            # The next order in 1 / n has about the size of the squared shift.
            assert shift[quantity][index] == pytest.approx(expected, abs=4 * se + expected**2)


def test_homogeneous_activations_shift_no_mean() -> None:
    model, x = pooled_network(nn.ReLU)
    (layers,) = propagate_images(model, layer_moments(model, lambda s: 2 / s.fan_in), x).passes
    shift = log_moments(layers, [FreeFraction()] * len(layers)).shift
    for quantity in ("preact_m2", "vjp_m2"):
        np.testing.assert_allclose(shift[quantity], 0, atol=1e-6)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_closed_adjoints_equal_finite_differences(activation: Activation) -> None:
    """Scale the weights of the first layer and compare with the differences of later moments."""
    model, x = averaged_network(activation)

    def moments_at(scale: float) -> Tensor:
        moments = layer_moments(model, lambda s: 1.5 / s.fan_in)
        first = moments["0"]
        moments["0"] = replace(first, weight=first.weight.scaled(scale))
        (layers,) = propagate_images(model, moments, x).passes
        return torch.stack([layer.preact.m2.mean() for layer in layers]).log()

    (layers,) = propagate_images(model, layer_moments(model, lambda s: 1.5 / s.fan_in), x).passes
    step = 1e-3
    change = moments_at(1 + step) - moments_at(1 - step)
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


def test_quadratic_forms_in_float32_have_the_error_of_float32_at_any_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 30, generator=generator).double()
    forms = torch.randn(3, 30, 30, generator=generator).double()
    exact = torch.einsum("si,tij,sj->st", x, forms, x)
    scales = torch.tensor([1e-120, 1.0, 1e60], dtype=torch.float64)
    actual = quadratic_forms(1e50 * x, scales[:, None, None] * forms) / scales / 1e100
    size = torch.einsum("si,tij,sj->st", x.abs(), forms.abs(), x.abs())
    error = (actual - exact).abs() / size
    # Each term is rounded four times, and each sum of 30 at most 30 times, twice.
    assert 0 < error.max() < 64 * torch.finfo(torch.float32).eps
    assert (quadratic_forms(0 * x, 0 * forms) == 0).all()
