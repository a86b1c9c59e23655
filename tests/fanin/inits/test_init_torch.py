"""Where torch has the same scheme, both draw from one distribution."""

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
# The chance of a false alarm in one comparison.
LEVEL = 1e-3


def same_distribution(ours: torch.Tensor, torchs: torch.Tensor) -> bool:
    return ks_2samp(ours.flatten().numpy(), torchs.detach().flatten().numpy()).pvalue > LEVEL


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_pytorch_default_is_what_torch_does_to_weights_and_biases(make):
    torch.manual_seed(0)
    copies = [make() for _ in range(20)]
    weight = WeightShape.of(copies[0])
    layer = Init(PytorchDefault()).for_layer("conv1")
    generator = torch.Generator().manual_seed(0)
    assert same_distribution(layer.sample_weight(weight, generator), copies[0].weight)
    biases = torch.stack([layer.sample_bias(weight, generator) for _ in copies])
    torchs = torch.stack([copy.bias for copy in copies])
    assert same_distribution(biases, torchs)
    for moments, theirs in (
        (layer.weight_moments(weight), torch.stack([copy.weight for copy in copies])),
        (layer.bias_moments(weight), torchs),
    ):
        squares = theirs.detach().double().flatten() ** 2
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
    # No function's address in a name: tests that run side by side are told apart by names.
    ids=lambda given: str(given) if is_dataclass(given) else "torch",
)
def test_he_and_xavier_are_torch_s(scheme, fill):
    torch.manual_seed(1)
    conv = nn.Conv2d(20, 100, 3)
    fill(conv.weight)
    ours = scheme.sample(WeightShape.of(conv), torch.Generator().manual_seed(1))
    assert same_distribution(ours, conv.weight)
