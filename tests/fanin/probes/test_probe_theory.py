"""Tests of measured moments against published formulas for wide ReLU networks."""

import math

import pytest
import torch
from torch import Tensor, nn

from fanin.inits import HeNormal, Init, initialize
from fanin.models import Mlp
from fanin.probes.measure import measure
from fanin.probes.moments import random_cotangent
from fanin.seeds import make_generator

DRAWS = 60


@pytest.fixture(scope="module")
def draws() -> dict[str, Tensor]:
    """Return each draw's mean over 4 images by `quantity layer_name`, for a wide He MLP."""
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    model = Mlp(depth=4, width=256).build((1, 8, 8), 10, nn.ReLU)
    values_by_name: dict[str, list[float]] = {}
    for draw in range(DRAWS):
        initialize(
            model, Init(HeNormal()), lambda name, d=draw: make_generator("weights", 0, d, name)
        )
        table = measure(model, images, random_cotangent(4, 10, make_generator("cotangent", draw)))
        columns = [table.layers[name] for name in ("quantity", "layer_name", "value")]
        for quantity, layer, value in zip(*columns, strict=True):
            values_by_name.setdefault(f"{quantity} {layer}", []).append(value)
    values_by_name["input"] = [images.double().square().sum((1, 2, 3)).mean().item()]
    return {
        name: torch.tensor(values, dtype=torch.float64) for name, values in values_by_name.items()
    }


def standard_errors_off(values: Tensor, expected: float) -> float:
    standard_error = values.std() / math.sqrt(len(values))
    return float((values.mean() - expected).abs() / standard_error)


@pytest.mark.parametrize("layer", ["fc1", "fc2", "fc3", "fc4"])
def test_he_weights_keep_the_second_moment_with_relu(draws, layer):
    # He et al. 2015, eq. 10: E[y_l^2] = 2 |x|^2 / n in every layer.
    expected = 2 * draws["input"].item() / 64
    assert standard_errors_off(draws[f"preact_m2 {layer}"], expected) < 3


def test_relu_halves_the_second_moment(draws):
    ratio = draws["act_m2 fc2"] / draws["preact_m2 fc2"]
    assert standard_errors_off(ratio, 0.5) < 3


def test_vjp_follows_the_he_backward_product(draws):
    # |u|^2 = 10 logits, so E[delta_3^2] = 10 Var[w_4] / 2 = 10 (2/256) / 2, as in all lower layers.
    for layer in ("fc3", "fc2", "fc1"):
        assert standard_errors_off(draws[f"vjp_m2 {layer}"], 10 / 256) < 3
    assert draws["vjp_m2 fc4"] == pytest.approx(torch.ones(DRAWS), rel=1e-6)


def test_he_weights_have_the_he_variance(draws):
    assert standard_errors_off(draws["weight_m2 fc2"], 2 / 256) < 3
