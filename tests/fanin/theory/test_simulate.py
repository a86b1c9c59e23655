"""Drawn networks have the moments that probes measure and init schemes declare."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch
from theory_networks import layer_moments
from torch import nn

from fanin.inits import (
    DeltaOrthogonal,
    HeNormal,
    Init,
    Moments,
    Orthogonal,
    WeightShape,
    weight_layers,
)
from fanin.models.layers import SeededDropout
from fanin.probes.measure import measure
from fanin.probes.moments import random_cotangent
from fanin.theory.finite_width import simulate
from fanin.theory.finite_width.simulate import (
    MAX_DRAWS,
    TARGET_LOG_SE,
    affordable_draws,
    simulate_networks,
)
from fanin.theory.moments import LayerMoments, declared_moments
from fanin.theory.network import parse_network

N_IMAGES = 3
DROPOUT_DRAWS = 150


def varied_conv_network() -> nn.Sequential:
    """Build a network with groups, stride, dilation, circular padding and overlapping pooling."""
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(6, 9, 3, stride=2, padding=(2, 1), groups=3, padding_mode="circular"),),
        *(nn.Tanh(), nn.Conv2d(9, 4, (2, 3), dilation=(2, 1), bias=False), nn.Flatten()),
        nn.Linear(8, 5),
    ).double()


def test_simulated_moments_equal_probe_measurements() -> None:
    model = varied_conv_network()
    x = torch.randn(N_IMAGES, 2, 14, 14, generator=torch.Generator().manual_seed(0)).double()
    simulated = simulate._measure(model, x, torch.Generator().manual_seed(1))
    u = random_cotangent(N_IMAGES, 5, torch.Generator().manual_seed(1))
    measured = pd.DataFrame(measure(model, x, u, single_images=tuple(range(N_IMAGES))).layers)
    for quantity, values in simulated.values.items():
        for image in range(N_IMAGES):
            rows = measured[
                (measured.quantity == quantity) & (measured.image == image)
            ].sort_values("layer")
            expected = torch.tensor(rows.value.to_numpy())
            torch.testing.assert_close(values[0, image], expected, rtol=1e-12, atol=1e-15)


def test_simulation_does_not_change_the_model() -> None:
    model = varied_conv_network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x, state = torch.rand(1, 2, 14, 14), torch.random.get_rng_state()
    simulate_networks(
        model, parse_network(model, (2, 14, 14)), layer_moments(model, lambda s: 1.0), x, draws=3
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_equal_seeds_draw_equal_networks() -> None:
    model, x = varied_conv_network(), torch.rand(1, 2, 14, 14)
    net, moments = parse_network(model, (2, 14, 14)), layer_moments(model, lambda s: 1.0)
    first, repeated, other = (
        simulate_networks(model, net, moments, x, draws=2, seed=seed).values["vjp_m2"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, repeated)
    assert not torch.equal(first, other)


def test_weights_have_the_declared_moments_of_each_tap() -> None:
    model = nn.Sequential(nn.Conv2d(32, 64, 2), nn.Flatten(), nn.Linear(64, 2)).double()
    mean, var = torch.arange(4.0).reshape(2, 2), torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    tap_moments = LayerMoments(Moments(mean, var), Moments(0.5, 0.0))
    moments = layer_moments(model, lambda s: 1.0) | {"0": tap_moments}
    simulate._initialize(model, moments, torch.Generator().manual_seed(0))
    weight, n_weights = model[0].weight.detach(), 32 * 64
    assert ((weight.mean((0, 1)) - mean).abs() <= 4 * (var / n_weights).sqrt()).all()
    assert ((weight.var((0, 1)) - var).abs() <= 4 * var * (2 / n_weights) ** 0.5).all()
    assert (model[0].bias == 0.5).all()


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_orthogonal_kernels_are_orthogonal(kernel_size: int) -> None:
    model = nn.Sequential(nn.Conv2d(4, 48, kernel_size), nn.Flatten(), nn.LazyLinear(2)).double()
    model(torch.zeros(1, 4, 8, 8).double())
    independent = layer_moments(model, lambda s: 2 / max(s.out_features, s.fan_in))
    moments = {name: replace(layer, dependence="orthogonal") for name, layer in independent.items()}
    simulate._initialize(model, moments, torch.Generator().manual_seed(0))
    matrix = model[0].weight.detach().flatten(1)
    torch.testing.assert_close(matrix.mT @ matrix, 2 * torch.eye(matrix.shape[1]).double())


@pytest.mark.parametrize("per_group", [False, True])
def test_groups_share_an_orthogonal_kernel_unless_they_have_their_own(per_group: bool) -> None:
    model = nn.Sequential(nn.Conv2d(4, 48, 3, groups=2), nn.Flatten(), nn.Linear(48, 2)).double()
    moments = declared_moments(model, Init(Orthogonal(per_group), gain=3.0))
    simulate._initialize(model, moments, torch.Generator().manual_seed(0))
    matrix = model[0].weight.detach().flatten(1)
    matrices = matrix.chunk(2) if per_group else [matrix]
    for matrix in matrices:
        torch.testing.assert_close(matrix.mT @ matrix, 9 * torch.eye(18).double())


def test_dependence_of_grouped_orthogonal_weights() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8, 2))
    for scheme, grouped in (
        (Orthogonal(), "orthogonal"),
        (Orthogonal(per_group=True), "orthogonal_per_group"),
        (DeltaOrthogonal(), "orthogonal_per_group"),
        (HeNormal(), "independent"),
    ):
        moments = declared_moments(model, Init(scheme))
        linear = "independent" if grouped == "independent" else "orthogonal"
        assert (moments["0"].dependence, moments["2"].dependence) == (grouped, linear)


def test_delta_orthogonal_kernels_have_one_tap() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8, 2)).double()
    shape = WeightShape.of(weight_layers(model)["0"])
    delta = DeltaOrthogonal().moments(shape).scaled(3.0)
    moments = layer_moments(model, lambda s: 1.0)
    moments["0"] = LayerMoments(delta, Moments(0.0, 0.0), "orthogonal")
    simulate._initialize(model, moments, torch.Generator().manual_seed(0))
    centre = model[0].weight.detach()[:, :, 1, 1]
    torch.testing.assert_close(centre.mT @ centre, 9 * torch.eye(4).double())
    assert int((model[0].weight != 0).sum()) == centre.numel()


def test_training_dropout_draws_masks() -> None:
    network = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), SeededDropout(0.5, (16,))),
        nn.Linear(16, 3),
    )
    x = torch.ones(1, 1, 4, 4)
    with_dropout, without_dropout = (
        simulate_networks(
            model,
            parse_network(model, (1, 4, 4)),
            layer_moments(model, lambda s: 2 / s.fan_in),
            x,
            draws=DROPOUT_DRAWS,
        ).values["preact_m2"][:, 0, 1]
        for model in (network.train(), network.eval())
    )
    # E[y^2] doubles at p = 1/2 (Srivastava et al. 2014).
    ratio = with_dropout.mean() / without_dropout.mean()
    relative_errors = [
        m2.std() / m2.mean() / DROPOUT_DRAWS**0.5 for m2 in (with_dropout, without_dropout)
    ]
    assert abs(ratio - 2) < 4 * 2 * torch.hypot(*relative_errors)


def test_larger_networks_get_fewer_draws() -> None:
    small = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    large = nn.Sequential(nn.Conv2d(1, 999, 3), nn.Conv2d(999, 999, 3), nn.Flatten())
    assert affordable_draws(small, parse_network(small, (1, 28, 28)), 1) == 1024
    assert affordable_draws(large, parse_network(large, (1, 28, 28)), 1) == 64


def test_drawing_stops_when_the_mean_log_moments_are_precise() -> None:
    model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Flatten(), nn.Linear(64 * 4, 64)).double()
    net = parse_network(model, (1, 4, 4))
    x = torch.ones(1, 1, 4, 4, dtype=torch.float64)

    def log_moments(mean: float) -> dict[str, torch.Tensor]:
        moments = layer_moments(model, lambda s: 1 / s.fan_in, lambda s: mean)
        values = simulate_networks(model, net, moments, x).values
        return {name: value.mean(1).log() for name, value in values.items()}

    precise = log_moments(0.0)
    assert 64 <= len(precise["vjp_m2"]) < MAX_DRAWS
    for name in ("preact_m2", "vjp_m2", "weight_vjp_m2"):
        assert (precise[name].std(0) <= TARGET_LOG_SE * len(precise[name]) ** 0.5).all()
    # The cotangent of units with equal weights is the square of one sum: its logarithm has a
    # standard deviation above 2, so 1024 draws are not enough.
    assert len(log_moments(100.0)["vjp_m2"]) == MAX_DRAWS


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()], ids=["relu", "tanh"])
@pytest.mark.parametrize("weight_mean", [0.0, 0.3])
def test_rounding_changes_no_moment(
    activation: nn.Module, weight_mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = _moments_in_both_precisions(activation, 1.0, weight_mean, monkeypatch)
    rms = values[torch.float64]["preact_m2"].sqrt()
    for name, expected in values[torch.float64].items():
        scale = rms if name in simulate.SIGNED_QUANTITIES else expected
        error = (values[torch.float32][name] - expected).abs() / scale
        assert error.max() <= simulate.MAX_ROUNDING
    # float32 was used: its rounding shows.
    assert not torch.equal(values[torch.float32]["vjp_m2"], values[torch.float64]["vjp_m2"])


@pytest.mark.parametrize("scale", [1e25, 1e-25], ids=["overflow", "underflow"])
def test_networks_that_float32_cannot_represent_are_computed_in_float64(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = _moments_in_both_precisions(nn.ReLU(), scale, 0.0, monkeypatch)
    for name, expected in values[torch.float64].items():
        assert torch.equal(values[torch.float32][name], expected)
        assert expected.isfinite().all()


def _moments_in_both_precisions(
    activation: nn.Module, scale: float, weight_mean: float, monkeypatch: pytest.MonkeyPatch
) -> dict[torch.dtype, dict[str, torch.Tensor]]:
    """Return the moments of 32 draws with float32 where it is accurate, and in float64."""
    model = nn.Sequential(
        *(nn.Conv2d(2, 16, 3, padding=1), activation, nn.Conv2d(16, 16, 3, stride=2), activation),
        *(nn.Flatten(), nn.Linear(144, 10)),
    ).double()
    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    net = parse_network(model, (2, 8, 8))
    moments = layer_moments(
        model, lambda s: scale**2 / s.fan_in, lambda s: weight_mean * s.fan_in**-0.5
    )
    values = {}
    for dtype, tests in ((torch.float32, simulate.FLOAT32_TESTS), (torch.float64, 99)):
        monkeypatch.setattr(simulate, "FLOAT32_TESTS", tests)
        values[dtype] = dict(simulate_networks(model, net, moments, x, draws=32).values)
    return values
