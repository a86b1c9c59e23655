"""Tests of the initialization of a whole model."""

import pytest
import torch
from torch import nn

from fanin.errors import ConfigError
from fanin.inits import (
    Alexnet2012,
    Constant,
    HeNormal,
    Init,
    LayerInit,
    NormalBias,
    Orthogonal,
    PytorchDefault,
    WeightShape,
    initialize,
)


def generator_for(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(name.encode()) % 2**31)


def mlp(depth: int = 2, **kwargs) -> nn.Sequential:
    net = nn.Sequential()
    for index in range(1, depth + 1):
        net.add_module(f"fc{index}", nn.Linear(6, 6, **kwargs))
        net.add_module(f"norm{index}", nn.LayerNorm(6))
    return net


def test_draws_do_not_depend_on_the_depth():
    shallow, deep = mlp(2), mlp(5)
    for net in (shallow, deep):
        initialize(net, Init(PytorchDefault()), generator_for)
    for name, parameter in shallow.named_parameters():
        assert torch.equal(parameter, deep.get_parameter(name))


def test_an_override_does_not_change_other_layers():
    plain, mixed = mlp(), mlp()
    initialize(plain, Init(HeNormal()), generator_for)
    override = {"fc1": LayerInit(Orthogonal())}
    initialize(mixed, Init(HeNormal(), layers=override), generator_for)
    assert not torch.equal(plain.fc1.weight, mixed.fc1.weight)
    assert torch.equal(plain.fc2.weight, mixed.fc2.weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_draws_are_rounded_to_the_dtype_of_the_model(dtype):
    net = mlp(dtype=dtype)
    initialize(net, Init(HeNormal(), bias=NormalBias(std=0.1)), generator_for)
    layer = Init(HeNormal(), bias=NormalBias(std=0.1)).for_layer("fc1")
    weight = WeightShape(6, 6)
    exact = layer.sample_weight(weight, generator_for("fc1.weight"))
    assert net.fc1.weight.dtype == dtype
    assert torch.equal(net.fc1.weight, exact.to(dtype))
    bias = layer.sample_bias(weight, generator_for("fc1.bias"))
    assert torch.equal(net.fc1.bias, bias.to(dtype))


def test_normalization_layers_keep_weight_1_and_bias_0():
    net = mlp()
    initialize(net, Init(Constant(3.0), bias=2.0), generator_for)
    assert torch.equal(net.norm1.weight, torch.ones(6))
    assert torch.equal(net.norm1.bias, torch.zeros(6))
    assert torch.equal(net.fc2.bias, torch.full((6,), 2.0))


def test_layers_may_have_no_bias():
    net = mlp(bias=False)
    initialize(net, Init(HeNormal(), bias=1.0), generator_for)
    assert net.fc1.bias is None


def test_weights_remain_leaves_that_require_gradients():
    net = mlp()
    initialize(net, Init(HeNormal()), generator_for)
    assert net.fc1.weight.requires_grad
    assert net.fc1.weight.is_leaf


def test_an_override_for_an_unknown_layer_is_rejected():
    with pytest.raises(ConfigError, match=r"init\.layers\.fc9: no such layer; did you mean fc"):
        initialize(
            mlp(), Init(HeNormal(), layers={"fc9": LayerInit(HeNormal(), gain=2.0)}), generator_for
        )


def test_alexnet_2012_biases_match_the_paper():
    net = nn.Sequential()
    for index in range(1, 6):
        net.add_module(f"conv{index}", nn.Conv2d(2, 2, 3))
    for index in range(1, 4):
        net.add_module(f"fc{index}", nn.Linear(2, 2))
    initialize(net, Init(Alexnet2012()), generator_for)
    biases = {name: module.bias.tolist() for name, module in net.named_children()}
    ones = {name for name, bias in biases.items() if bias == [1.0, 1.0]}
    zeros = {name for name, bias in biases.items() if bias == [0.0, 0.0]}
    assert ones == {"conv2", "conv4", "conv5", "fc1", "fc2"}
    assert zeros == {"conv1", "conv3", "fc3"}


def test_a_given_bias_replaces_the_scheme_bias():
    layer = Init(Alexnet2012(), bias=0.0).for_layer("conv2")
    assert layer.bias_moments(WeightShape(2, 2, (3,))).mean == 0.0
