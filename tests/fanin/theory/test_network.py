"""`parse_network` and the lookup of weight moments."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fanin.errors import InputError
from fanin.inits.weight_shape import Moments
from fanin.models.layers import SeededDropout
from fanin.theory import LayerMoments, UnpredictableLayer
from fanin.theory.moments import scalar_moments
from fanin.theory.network import has_flat_weights, is_sequence, parse_network


def test_nested_sequences_are_flattened():
    block = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    model = nn.Sequential(block, nn.Flatten(), SeededDropout(0.5, (64,)), nn.Linear(64, 3))
    conv, dense = parse_network(model, (1, 8, 8)).stages
    assert [layer.name for layer in conv.after] == ["0.1", "0.2", "1", "2"]
    assert (conv.name, conv.fan_in, conv.outputs_per_input, conv.positions) == ("0.0", 9, 36, 64)
    assert (dense.name, dense.fan_in, dense.outputs_per_input, dense.positions) == ("3", 64, 3, 1)


def test_activation_may_be_used_twice():
    act = nn.Tanh()
    model = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 4))
    assert [len(stage.after) for stage in parse_network(model, (4,)).stages] == [1, 1, 0]


def test_positions_after_stride_padding_and_pooling():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.MaxPool2d(3, 2), nn.Conv2d(8, 8, 3, groups=2)
    )
    first, second = parse_network(model, (3, 32, 32)).stages
    assert (first.positions, second.positions) == (16 * 16, 5 * 5)
    assert (second.fan_in, second.outputs_per_input) == (4 * 9, 4 * 9)


def test_parsing_does_not_change_the_network():
    norm = nn.BatchNorm2d(1)
    model = nn.Sequential(
        norm, nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = parse_network(model, (1, 4, 4))
    inputs = net.first_input(torch.rand(5, 1, 4, 4) + 3)
    assert inputs.mean().abs() < 1e-6
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.inner(x)


@pytest.mark.parametrize(
    ("inner", "name"),
    [
        (Residual(), "1"),
        (nn.Sequential(nn.MultiheadAttention(4, 1)), "1.0"),
    ],
)
def test_nested_weights_raise(inner, name):
    with pytest.raises(UnpredictableLayer, match=f"layer {name}: ") as error:
        parse_network(nn.Sequential(nn.Linear(4, 4), inner), (4,))
    assert error.value.name == name


def test_a_wrong_input_size_raises():
    message = r"layer 1 \(Linear\) needs 5 inputs, but gets 4"
    with pytest.raises(InputError, match=message):
        parse_network(nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 4)), (4,))


def test_shared_weights_raise():
    layer = nn.Linear(4, 4)
    with pytest.raises(UnpredictableLayer, match="used twice"):
        parse_network(nn.Sequential(layer, nn.ReLU(), layer), (4,))


def test_model_without_weights_raises():
    with pytest.raises(UnpredictableLayer, match="no weight layer"):
        parse_network(nn.Sequential(nn.Flatten()), (4,))


def test_different_kernel_taps_are_averaged():
    mean, var = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 4.0]])
    moments = {"conv1": LayerMoments(Moments(mean, var), Moments(3.0, 0.5))}
    (conv,) = scalar_moments(moments, ["conv1"]).values()
    assert (conv.weight_mean, conv.weight_var) == (0, 2 + 1)
    assert (conv.bias_mean, conv.bias_var) == (3, 0.5)


def test_missing_moments_raise():
    with pytest.raises(UnpredictableLayer, match=r"fc2: init has no moments"):
        scalar_moments({}, ["fc2"])


class ScaledLinear(nn.Linear):
    def forward(self, x):
        return 0.1 * super().forward(x)


class SkipSequence(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, args, output: 3 * output)
    return layer


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(ScaledLinear(4, 4)),
        nn.Sequential(hooked(nn.Linear(4, 4))),
        nn.Sequential(nn.Linear(4, 4), hooked(nn.Identity()), nn.Linear(4, 4)),
        hooked(nn.Sequential(nn.Linear(4, 4))),
        nn.Sequential(SkipSequence(nn.Linear(4, 4)), nn.Linear(4, 4)),
    ],
)
def test_changed_layers_are_not_read_as_those_of_torch(model: nn.Module) -> None:
    assert not is_sequence(model, (4,))
    assert not has_flat_weights(model, (4,))
