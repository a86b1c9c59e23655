"""Tests of weight shapes, fans (as in torch) and outputs per input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fanin.inits import WeightShape, weight_layers

SIZES = st.integers(1, 6)
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@settings(deadline=None)
@given(SIZES, SIZES, st.lists(SIZES, min_size=1, max_size=3), SIZES)
def test_fans_agree_with_torch(inputs, outputs, kernel, groups):
    conv = CONVS[len(kernel)](inputs * groups, outputs * groups, kernel, groups=groups)
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(conv.weight)
    weight = WeightShape.of(conv)
    assert weight.shape == tuple(conv.weight.shape)
    assert (weight.fan_in, weight.fan_out) == (fan_in, fan_out)
    assert (weight.fan("fan_in"), weight.fan("fan_out")) == (fan_in, fan_out)
    assert weight.fan("fan_avg") == (fan_in + fan_out) / 2


@settings(deadline=None)
@given(SIZES, SIZES, st.lists(SIZES, min_size=1, max_size=3), SIZES)
def test_one_group_is_a_convolution_of_its_own(inputs, outputs, kernel, groups):
    conv = CONVS[len(kernel)](inputs * groups, outputs * groups, kernel, groups=groups)
    weight = WeightShape.of(conv)
    assert weight.one_group == WeightShape.of(CONVS[len(kernel)](inputs, outputs, kernel))
    assert weight.one_group.fan_in == weight.fan_in
    assert weight.one_group.fan_out == weight.outputs_per_input


@settings(deadline=None)
@given(SIZES, SIZES)
def test_a_linear_layer_has_the_fans_of_a_1x1_convolution(inputs, outputs):
    linear = WeightShape.of(nn.Linear(inputs, outputs))
    conv = WeightShape.of(nn.Conv2d(inputs, outputs, 1))
    assert linear.shape == (outputs, inputs)
    assert (linear.fan_in, linear.fan_out) == (conv.fan_in, conv.fan_out) == (inputs, outputs)


@settings(deadline=None)
@given(SIZES, SIZES, SIZES)
def test_outputs_per_input_counts_the_outputs_of_one_input(inputs, outputs, groups):
    conv = nn.Conv1d(inputs * groups, outputs * groups, 3, groups=groups, padding=2, bias=False)
    nn.init.ones_(conv.weight)
    image = torch.zeros(1, inputs * groups, 7)
    image[0, 0, 3] = 1
    assert int(conv(image).count_nonzero()) == WeightShape.of(conv).outputs_per_input


def test_other_layers_have_no_weight_shape():
    with pytest.raises(TypeError, match="BatchNorm2d"):
        WeightShape.of(nn.BatchNorm2d(3))


def test_weight_layers_of_nested_modules_in_order():
    block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
    net = nn.Sequential()
    net.add_module("block", block)
    net.add_module("flatten", nn.Flatten())
    net.add_module("fc1", nn.Linear(8, 2))
    assert list(weight_layers(net)) == ["block.0", "fc1"]
