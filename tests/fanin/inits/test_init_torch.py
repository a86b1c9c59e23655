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
    Normal,
    Orthogonal,
    PytorchDefault,
    Uniform,
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
EPS = torch.finfo(torch.float64).eps
# Output and input channels, kernel, groups.
CONVS = {
    "ungrouped": (40, 12, (3, 3), 1),
    "tall": (40, 2, (3, 3), 1),
    "grouped_wide": (12, 8, (3, 3), 2),
    "grouped_tall": (64, 8, (2, 3), 4),
    "grouped_between": (24, 8, (2, 2), 2),  # 12 rows per group, 16 columns, 24 rows in all
    "depthwise": (12, 12, (3, 3), 12),
    "conv1d": (12, 6, (5,), 3),
}
SCHEMES = {
    "kaiming_normal": (HeNormal(), nn.init.kaiming_normal_),
    "kaiming_normal_fan_out": (
        HeNormal("fan_out", negative_slope=0.5),
        lambda w, generator: nn.init.kaiming_normal_(w, 0.5, "fan_out", generator=generator),
    ),
    "kaiming_uniform_fan_out": (
        HeUniform("fan_out"),
        lambda w, generator: nn.init.kaiming_uniform_(w, 0, "fan_out", generator=generator),
    ),
    "xavier_normal": (XavierNormal(), nn.init.xavier_normal_),
    "xavier_uniform": (XavierUniform(), nn.init.xavier_uniform_),
    "orthogonal": (Orthogonal(), nn.init.orthogonal_),
    "normal": (
        Normal(std=0.5, mean=1.0),
        lambda w, generator: nn.init.normal_(w, 1.0, 0.5, generator),
    ),
    "uniform": (Uniform(-1.0, 2.0), lambda w, generator: nn.init.uniform_(w, -1.0, 2.0, generator)),
}


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


@pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS)
@pytest.mark.parametrize(("scheme", "fill"), SCHEMES.values(), ids=SCHEMES)
def test_equal_generators_draw_the_values_of_torch(scheme, fill, conv):
    """In float64 the values agree up to the rounding of a scale and a shift.

    For `orthogonal` both call the same QR decomposition with equal arguments.
    """
    weight = WeightShape(*conv)
    expected = torch.empty(weight.shape, dtype=torch.float64)
    fill(expected, generator=torch.Generator().manual_seed(5))
    sample = scheme.sample(weight, torch.Generator().manual_seed(5))
    torch.testing.assert_close(sample, expected, rtol=8 * EPS, atol=8 * EPS)


@pytest.mark.parametrize(
    "scheme",
    [
        HeNormal("fan_out", per_group=True),
        HeUniform("fan_out", per_group=True),
        XavierNormal(per_group=True),
        XavierUniform(per_group=True),
        Orthogonal(per_group=True),
    ],
    ids=lambda scheme: type(scheme).__name__,
)
@pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS)
def test_per_group_moments_are_those_of_torch_for_one_group(scheme, conv):
    """`per_group` treats each group as a layer of its own; torch's scheme is the reference."""
    weight = WeightShape(*conv)
    torch_scheme = type(scheme)(**{**vars(scheme), "per_group": False})
    assert scheme.moments(weight) == torch_scheme.moments(weight.one_group)
    assert scheme.moments(weight.one_group) == torch_scheme.moments(weight.one_group)


def test_fan_out_of_one_group_keeps_the_scale_of_the_backward_pass():
    """E[(W^T d)^2] = outputs_per_input Var[w] E[d^2] (He et al. 2015, eq. 13)."""
    weight = WeightShape(30, 20, kernel=(3, 3), groups=5)
    for scheme, gain in (
        (HeNormal("fan_out", per_group=True), 1.0),
        (HeNormal("fan_out"), 1 / 5),
    ):
        backward_gain = weight.outputs_per_input * scheme.moments(weight).var / 2
        assert backward_gain == pytest.approx(gain, rel=4 * EPS)
