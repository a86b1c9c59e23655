"""Tests that every scheme in conf/init/ draws weights and biases of its declared moments."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from experiments.config.init_options import init_from_config
from fanin.inits import HeNormal, LayerInit, Moments, WeightShape

CONF = Path(__file__).parents[3] / "conf" / "init"
OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "custom")
SHAPES = {
    "linear": WeightShape(24, 40),
    "tall_linear": WeightShape(40, 8),
    "conv": WeightShape(12, 6, kernel=(3, 3)),
    "conv_few_inputs": WeightShape(32, 1, kernel=(3, 5)),
    "grouped_conv": WeightShape(12, 8, kernel=(3, 3), groups=2),
    "tall_grouped_conv": WeightShape(32, 4, kernel=(2, 3), groups=4),
    "depthwise_conv": WeightShape(12, 6, kernel=(3, 3), groups=6),
    "conv1d": WeightShape(6, 10, kernel=(4,)),
}
PER_GROUP_OPTIONS = ["he_normal", "he_uniform", "orthogonal", "xavier_normal", "xavier_uniform"]
DRAWS = 200
STANDARD_ERRORS = 5  # Two sides of a t-distribution with 199 degrees of freedom: p = 1e-6.


def read_option(option: str) -> dict[str, object]:
    return yaml.safe_load((CONF / f"{option}.yaml").read_text())


def layer_init(option: str) -> LayerInit:
    return init_from_config(read_option(option)).for_layer("conv2")


def test_options_with_groups_are_listed():
    assert [name for name in OPTIONS if "per_group" in read_option(name)] == PER_GROUP_OPTIONS


def disagreement(draws: torch.Tensor, moments: Moments) -> float:
    """Return the largest deviation of a mean or variance from the declared one, in standard errors.

    Means and variances are per kernel element. `draws` is [draw, out, in, *kernel]. The entries of
    one draw may be dependent (orthogonal); draws are independent. Statistics that are equal in all
    draws must agree up to rounding.
    """
    kernel = draws.shape[3:]
    mean = torch.as_tensor(moments.mean, dtype=torch.float64).expand(kernel)
    var = torch.as_tensor(moments.var, dtype=torch.float64).expand(kernel)
    rounding = 64 * torch.finfo(torch.float64).eps * float(draws.abs().max() ** 2 + 1)
    largest = 0.0
    for entries, declared in ((draws, mean), ((draws - mean) ** 2, var)):
        per_draw = entries.mean((1, 2))
        error = per_draw.std(0) / len(draws) ** 0.5
        excess = ((per_draw.mean(0) - declared).abs() - rounding).clamp(min=0)
        largest = max(largest, float((excess / error.clamp(min=rounding)).max()))
    return largest


def draws_of(layer: LayerInit, weight: WeightShape) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.stack([layer.sample_weight(weight, generator) for _ in range(DRAWS)])


@pytest.mark.parametrize("weight", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("option", OPTIONS)
def test_weights_have_the_declared_moments(option, weight):
    layer = layer_init(option)
    moments = layer.weight_moments(weight)
    if moments is None:
        assert hasattr(layer.scheme, "calibrate"), "only schemes that calibrate may have no moments"
        return
    assert disagreement(draws_of(layer, weight), moments) < STANDARD_ERRORS


@pytest.mark.parametrize("weight", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("option", PER_GROUP_OPTIONS)
def test_weights_per_group_have_the_declared_moments(option, weight):
    node = read_option(option) | {"per_group": True}
    node |= {"fan": "fan_out"} if "fan" in node else {}
    layer = init_from_config(node).for_layer("conv2")
    assert disagreement(draws_of(layer, weight), layer.weight_moments(weight)) < STANDARD_ERRORS


@pytest.mark.parametrize("weight", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("option", OPTIONS)
def test_biases_have_the_declared_moments(option, weight):
    layer = layer_init(option)
    generator = torch.Generator().manual_seed(2)
    biases = torch.stack([layer.sample_bias(weight, generator) for _ in range(DRAWS)])
    moments = layer.bias_moments(weight)
    assert biases.shape == (DRAWS, weight.out_features)
    assert disagreement(biases[:, :, None], moments) < STANDARD_ERRORS


@pytest.mark.parametrize("weight", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("option", OPTIONS)
def test_draws_are_float64_and_reproducible(option, weight):
    layer = layer_init(option)
    first, second, other = (
        layer.sample_weight(weight, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert first.dtype == torch.float64
    assert first.shape == weight.shape
    assert torch.equal(first, second)
    assert option in ("zeros", "constant") or not torch.equal(first, other)


def test_a_gain_scales_mean_and_standard_deviation():
    node = {"_target_": "fanin.inits.Uniform", "a": 0, "b": 1, "gain": 3}
    layer = init_from_config(node).for_layer("fc1")
    moments = layer.weight_moments(SHAPES["linear"])
    assert (moments.mean, moments.var) == (1.5, 0.75)
    assert disagreement(draws_of(layer, SHAPES["linear"]), moments) < STANDARD_ERRORS


@dataclass(frozen=True)
class TwoPercentOff(HeNormal):
    """Scheme with a standard deviation 2 % above the declared one."""

    def sample(self, weight, generator):
        return 1.02 * super().sample(weight, generator)


@dataclass(frozen=True)
class ShiftedAtOneTap(HeNormal):
    """Scheme with a mean of 0.1 standard deviations at one kernel element, where 0 is declared."""

    def sample(self, weight, generator):
        sampled = super().sample(weight, generator)
        sampled[:, :, 0, 0] += 0.1 * self.moments(weight).var ** 0.5
        return sampled


@pytest.mark.parametrize("wrong", [TwoPercentOff(), ShiftedAtOneTap()])
def test_wrong_moments_are_detected(wrong):
    weight = WeightShape(48, 32, kernel=(3, 3))
    layer = LayerInit(wrong)
    assert disagreement(draws_of(layer, weight), wrong.moments(weight)) > STANDARD_ERRORS
