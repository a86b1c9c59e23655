"""The simulation of linear layers without matrices agrees with drawn networks."""

from __future__ import annotations

import csv
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from theory_networks import assert_same_distribution, image, layer_moments, mlp, reference_input
from torch import Tensor, nn

from fanin.inits import Moments, WeightShape
from fanin.models.layers import MeanOnly
from fanin.theory import LayerMoments, UnpredictableLayer
from fanin.theory.finite_width.dense import simulate_dense
from fanin.theory.finite_width.simulate import DrawMoments, simulate_networks
from fanin.theory.network import parse_network

MAX_STANDARD_ERRORS = 3.5
REFERENCE = Path(__file__).parent / "reference.csv"
MomentsByLayer = dict[str, LayerMoments]


def he(shape: WeightShape) -> float:
    return 2 / shape.fan_in


def simulate_units(
    model: nn.Module, moments: MomentsByLayer, x: Tensor, draws: int = 1000
) -> DrawMoments:
    net = parse_network(model, tuple(x.shape[1:]))
    return simulate_dense(model, net, moments, net.first_input(x), draws=draws)


def draw_networks(
    model: nn.Module, moments: MomentsByLayer, x: Tensor, draws: int = 150
) -> DrawMoments:
    """Draw networks with weight matrices of the same moments."""
    return simulate_networks(
        model, parse_network(model, tuple(x.shape[1:])), moments, x, draws=draws
    )


def test_finite_width_matches_the_reference() -> None:
    table = csv.DictReader(line for line in REFERENCE.open() if not line.startswith("#"))
    rows = [row for row in table if row["case"].startswith("finitewidth")]
    assert len(rows) == 2
    model = mlp(nn.Tanh, width=256, depth=15, inputs=64)
    moments = layer_moments(model, lambda shape: 1 / shape.fan_in)
    m2 = simulate_units(model, moments, reference_input(64), draws=2000).values["preact_m2"][
        :, 0, -1
    ]
    estimates = {
        "sd": (m2.log().std(), m2.log().std() / (2 * len(m2)) ** 0.5),
        "mean": (m2.mean(), m2.std() / len(m2) ** 0.5),
    }
    for row in rows:
        value, se = estimates[row["quantity"].split()[0]]
        reference_se = float(row["source"].split("se=")[1])
        z = (float(value) - float(row["reference_value"])) / np.hypot(float(se), reference_se)
        assert abs(z) < MAX_STANDARD_ERRORS


def test_gelu_amplifies_finite_width_fluctuations() -> None:
    """Mean 0.0138 and sd of log 1.38; mean-field theory has 0.0044 (derivations.md, 2.3)."""
    model = mlp(nn.GELU, width=256, depth=15, inputs=64)
    m2 = simulate_units(model, layer_moments(model, he), reference_input(64)).values["preact_m2"][
        :, 0, -1
    ]
    log = m2.log()
    reference_draws = 3000  # draws of the values in derivations.md
    relative = float(m2.std() / m2.mean()) * (1 / len(m2) + 1 / reference_draws) ** 0.5
    assert abs(float(m2.mean()) / 0.0138 - 1) < MAX_STANDARD_ERRORS * relative
    kurtosis = float(stats.kurtosis(log.numpy(), fisher=False))
    assert (
        abs(float(log.std()) - 1.38)
        < MAX_STANDARD_ERRORS
        * 1.38
        * ((kurtosis - 1) / 4 * (1 / len(m2) + 1 / reference_draws)) ** 0.5
    )


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Identity])
def test_weights_with_a_mean_on_inputs_of_zero_sum(activation: Callable[[], nn.Module]) -> None:
    model = mlp(activation, width=64, depth=4)
    x = torch.randn(64, generator=torch.Generator().manual_seed(1)).double()
    x = image(x - x.mean())
    moments = layer_moments(model, lambda s: 1 / s.fan_in, lambda s: 0.5 * s.fan_in**-0.5)
    assert_same_distribution(simulate_units(model, moments, x), draw_networks(model, moments, x))


def test_images_share_the_weights_of_a_draw() -> None:
    model = mlp(nn.Tanh, width=48, depth=4, inputs=36)
    x = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(2)).double()
    moments = layer_moments(model, he, bias=Moments(0.1, 0.3))
    assert_same_distribution(simulate_units(model, moments, x), draw_networks(model, moments, x))


def test_equal_images_have_equal_moments_in_every_draw() -> None:
    """Equal images share weights and biases; the root of their singular covariance has jitter."""
    model = mlp(nn.Tanh, width=16, depth=3, inputs=36)
    x = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(2)).double()
    moments = layer_moments(model, he, bias=Moments(0.1, 0.3))
    values = simulate_units(model, moments, x.repeat(2, 1, 1, 1), draws=10).values["preact_m2"]
    torch.testing.assert_close(values[:, 0], values[:, 1], rtol=1e-3, atol=0)


@pytest.mark.parametrize(("activation", "n_images"), [(nn.Tanh, 1), (nn.ReLU, 2)])
def test_orthogonal_weights_of_different_shapes(
    activation: Callable[[], nn.Module], n_images: int
) -> None:
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(40, 64)]
    for inputs, outputs in ((64, 64), (64, 32), (32, 48), (48, 10)):
        layers += [activation(), nn.Linear(inputs, outputs)]
    model = nn.Sequential(*layers)
    x = torch.randn(n_images, 1, 1, 40, generator=torch.Generator().manual_seed(3)).double()
    independent = layer_moments(model, lambda s: 1.5 / max(s.in_features, s.out_features))
    moments = {name: replace(layer, dependence="orthogonal") for name, layer in independent.items()}
    assert_same_distribution(simulate_units(model, moments, x), draw_networks(model, moments, x))


def test_dropout_and_mean_only_normalization_between_layers() -> None:
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(20, 40), nn.Tanh(), nn.Dropout(0.3)),
        *(nn.Linear(40, 40), nn.ReLU(), MeanOnly(), nn.Linear(40, 10)),
    )
    x = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(4)).double()
    moments = layer_moments(model, he)
    assert_same_distribution(simulate_units(model, moments, x), draw_networks(model, moments, x))


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(40, track_running_stats=False), nn.LayerNorm(40)], ids=type
)
def test_normalization_between_layers(norm: nn.Module) -> None:
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(20, 40), norm, nn.Tanh()),
        *(nn.Linear(40, 40), deepcopy(norm), nn.ReLU(), nn.Linear(40, 10)),
    )
    for module in model.modules():
        if isinstance(
            module, type(norm)
        ):  # the exact simulation supports a different scale for each unit
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    x = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(4)).double()
    moments = layer_moments(model.double(), he)
    assert_same_distribution(simulate_units(model, moments, x), draw_networks(model, moments, x))


def test_batch_normalization_of_one_image_raises() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4, track_running_stats=False))
    model.append(nn.Linear(4, 2))
    with pytest.raises(UnpredictableLayer, match="one image"):
        simulate_units(model, layer_moments(model, he), torch.ones(1, 8).double())


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_relu_networks_are_scale_invariant(scale: float) -> None:
    model = mlp(nn.ReLU, width=32, depth=6)
    moments = layer_moments(model, he)
    x = image(torch.ones(32))
    unscaled, scaled = (
        simulate_units(model, moments, s * x, 200).distributions()["preact_m2"]
        for s in (1.0, scale)
    )
    np.testing.assert_allclose(scaled.log_sd, unscaled.log_sd, rtol=1e-9)
    np.testing.assert_allclose(scaled.value, scale**2 * unscaled.value, rtol=1e-9)


def test_overflow_gives_inf_and_zero_weights_give_zero() -> None:
    model = mlp(nn.ReLU, width=32, depth=4)
    x = image(torch.ones(32))
    overflowed = simulate_units(
        model, layer_moments(model, lambda s: 1e150), x, 100
    ).distributions()["preact_m2"]
    assert np.isinf(overflowed.value[:, -1]).all()
    assert np.isnan(overflowed.log_sd[:, -1]).all()
    vanished = simulate_units(model, layer_moments(model, lambda s: 0.0), x, 100).distributions()[
        "preact_m2"
    ]
    assert (vanished.value == 0).all()
    assert (vanished.log_sd == 0).all()


def test_unsupported_layer_raises_with_its_name() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.GroupNorm(2, 8), nn.Linear(8, 4))
    with pytest.raises(UnpredictableLayer, match="layer 2: GroupNorm"):
        simulate_units(model, layer_moments(model, he), image(torch.ones(8)))
