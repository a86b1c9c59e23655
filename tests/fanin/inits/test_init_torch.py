"""Tests of init schemes against the same schemes in torch."""

from dataclasses import is_dataclass

import pytest
import torch
from scipy.stats import ks_2samp
from torch import nn

from fanin.inits import (
    HeNormal,
    HeUniform,
    Init,
    PytorchDefault,
    WeightShape,
    XavierNormal,
    XavierUniform,
)

LAYERS = {
    "linear": lambda: nn.Linear(300, 200),
    "conv": lambda: nn.Conv2d(20, 100, (3, 5)),
    "grouped_conv": lambda: nn.Conv2d(40, 100, 3, groups=4),
    "conv1d": lambda: nn.Conv1d(64, 100, 7),
}
# Probability of a false positive in one comparison.
LEVEL = 1e-3


def same_distribution(sample: torch.Tensor, reference: torch.Tensor) -> bool:
    return ks_2samp(sample.flatten().numpy(), reference.detach().flatten().numpy()).pvalue > LEVEL


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_pytorch_default_matches_torch(make):
    torch.manual_seed(0)
    modules = [make() for _ in range(20)]
    weight = WeightShape.of(modules[0])
    layer = Init(PytorchDefault()).for_layer("conv1")
    generator = torch.Generator().manual_seed(0)
    assert same_distribution(layer.sample_weight(weight, generator), modules[0].weight)
    biases = torch.stack([layer.sample_bias(weight, generator) for _ in modules])
    torch_biases = torch.stack([module.bias for module in modules])
    assert same_distribution(biases, torch_biases)
    for moments, torch_values in (
        (layer.weight_moments(weight), torch.stack([module.weight for module in modules])),
        (layer.bias_moments(weight), torch_biases),
    ):
        squares = torch_values.detach().double().flatten() ** 2
        error = squares.std() / len(squares) ** 0.5
        assert abs(squares.mean() - moments.second_moment) < 4 * error
        assert squares.max() <= 3 * moments.var * (1 + torch.finfo(torch.float32).eps * 4)


@pytest.mark.parametrize(
    ("scheme", "fill"),
    [
        (HeNormal(), nn.init.kaiming_normal_),
        (HeUniform("fan_out"), lambda w: nn.init.kaiming_uniform_(w, mode="fan_out")),
        (
            HeNormal(negative_slope=0.5),
            lambda w: nn.init.kaiming_normal_(w, a=0.5, nonlinearity="leaky_relu"),
        ),
        (XavierNormal(), nn.init.xavier_normal_),
        (XavierUniform(), nn.init.xavier_uniform_),
    ],
    # Parallel test processes need equal test ids, so ids must not contain a function's address.
    ids=lambda value: str(value) if is_dataclass(value) else "torch",
)
def test_he_and_xavier_match_torch(scheme, fill):
    torch.manual_seed(1)
    conv = nn.Conv2d(20, 100, 3)
    fill(conv.weight)
    sample = scheme.sample(WeightShape.of(conv), torch.Generator().manual_seed(1))
    assert same_distribution(sample, conv.weight)
