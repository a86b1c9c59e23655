"""Residual networks: sizes, shapes, forward pass and start at zero."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fanin.activations import Maxout
from fanin.errors import ConfigError
from fanin.inits import HeNormal, initialize, weight_layers
from fanin.models import Multiplier, ResidualBlock, ResNet, ScalarBias
from fanin.probes.trace import trace

CIFAR = (3, 32, 32)
VARIANTS = [
    {"version": version, "norm": norm, "shortcut": shortcut, "zero_init": zero_init}
    for version in ("v1", "v2")
    for norm in ("none", "batch", "group")
    for shortcut in ("A", "B")
    for zero_init in (False, True)
]


def build(shape=(3, 9, 9), activation=nn.ReLU, depth=8, width=4, **options) -> nn.Sequential:
    network = ResNet(depth=depth, width=width, **options).build(shape, 10, activation)
    generator = torch.Generator().manual_seed(0)
    initialize(network, HeNormal(), lambda name: generator)
    return network.double()


def n_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def blocks(network: nn.Module) -> list[ResidualBlock]:
    return [module for module in network.modules() if isinstance(module, ResidualBlock)]


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_parameter_counts_are_those_of_he_et_al_2016(depth: int, millions: float):
    """Table 6 of the paper; it rounds ResNet-110 to one digit."""
    with torch.device("meta"):
        count = n_parameters(ResNet(depth=depth).build(CIFAR, 10, nn.ReLU)) / 1e6
    assert round(count, 1 if depth == 110 else 2) == millions


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_projection_adds_the_parameters_of_two_convolutions(version: str):
    def count(shortcut) -> int:
        return n_parameters(build(CIFAR, width=16, version=version, shortcut=shortcut))

    norms = 2 * (32 + 64) if version == "v1" else 0
    assert count("B") - count("A") == 16 * 32 + 32 * 64 + norms


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(map(str, o.values())))
def test_maps_halve_twice_and_channels_double(options):
    network = build((3, 9, 9), **options)
    shapes = []
    for block in blocks(network):
        block.register_forward_hook(lambda _m, _x, y: shapes.append(tuple(y.shape[1:])))
    assert network(torch.rand(2, 3, 9, 9).double()).shape == (2, 10)
    assert shapes == [(4, 9, 9), (8, 5, 5), (16, 3, 3)]


@pytest.mark.parametrize("side", [1, 2, 8])
def test_images_may_have_any_size(side: int):
    network = build((1, side, side), norm="none").eval()
    assert network(torch.rand(2, 1, side, side).double()).isfinite().all()


# --- forward pass, written as in the papers ---------------------------------------------------


def normalized(x: Tensor) -> Tensor:
    """Return batch normalization with its first scale and shift."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt()


def paper_v1(weights: list[Tensor], x: Tensor) -> Tensor:
    """ResNet-8 with shortcut A: the weights are those of the convolutions and the last layer."""
    x = normalized(F.conv2d(x, weights[0], padding=1)).relu()
    for block in range(3):
        w1, w2 = weights[1 + 2 * block : 3 + 2 * block]
        stride = 1 if block == 0 else 2
        y = normalized(F.conv2d(x, w1, padding=1, stride=stride)).relu()
        y = normalized(F.conv2d(y, w2, padding=1))
        shortcut = torch.zeros_like(y)
        shortcut[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
        x = (y + shortcut).relu()
    return x.mean((2, 3)) @ weights[7].T


def paper_v2(weights: list[Tensor], x: Tensor) -> Tensor:
    """Pre-activation ResNet-8 with shortcut B."""
    x = normalized(F.conv2d(x, weights[0], padding=1)).relu()
    x = x + F.conv2d(normalized(F.conv2d(x, weights[1], padding=1)).relu(), weights[2], padding=1)
    for w1, w2, projection in (weights[3:6], weights[6:9]):
        x = normalized(x).relu()
        y = normalized(F.conv2d(x, w1, padding=1, stride=2)).relu()
        x = F.conv2d(y, w2, padding=1) + F.conv2d(x, projection, stride=2)
    return normalized(x).relu().mean((2, 3)) @ weights[9].T


@pytest.mark.parametrize(
    ("paper", "options"),
    [(paper_v1, {"shortcut": "A"}), (paper_v2, {"version": "v2", "shortcut": "B"})],
)
def test_logits_are_those_of_the_papers(paper, options):
    network = build(**options)
    x = torch.rand(5, 3, 9, 9, generator=torch.Generator().manual_seed(1)).double()
    weights = [layer.weight.detach() for layer in weight_layers(network).values()]
    torch.testing.assert_close(network(x).detach(), paper(weights, x))


# --- start of the branches --------------------------------------------------------------------


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(map(str, o.values())))
def test_branches_start_at_zero_and_get_gradients(options):
    """At zero, a branch must still get a gradient: a zero scale before a ReLU would stop it."""
    network = build(**options)
    outputs = []
    for block in blocks(network):
        block.branch.register_forward_hook(lambda _m, _x, y: outputs.append(y))
    x = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(1)).double()
    network(x).logsumexp(1).sum().backward()
    assert [bool(y.any()) for y in outputs] == [not options["zero_init"]] * 3
    for block in blocks(network):
        assert any(p.grad.any() for p in block.branch.parameters())


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_fixup_has_one_multiplier_and_four_biases_per_block(version: str):
    """Zhang et al. 2019, figure 1 (right), with the bias before the activation after the sum."""
    network = build(depth=14, version=version, norm="none", scalars="fixup")
    assert not any(isinstance(m, nn.BatchNorm2d | nn.GroupNorm) for m in network.modules())
    for block in blocks(network):
        kinds = [type(module) for module in block.modules()]
        assert kinds.count(Multiplier) == 1
        assert kinds.count(ScalarBias) == (3 if version == "v2" and block is network.block1 else 4)
    assert all(
        conv.bias is None for conv in weight_layers(network).values() if conv is not network.fc1
    )
    plain = build(depth=14, version=version, norm="none")
    x = torch.rand(2, 3, 9, 9).double()
    torch.testing.assert_close(network(x), plain(x))  # the biases are zeros in both


# --- probes and errors ------------------------------------------------------------------------


@pytest.mark.parametrize("scalars", ["none", "fixup"])
def test_probes_do_not_take_a_scalar_or_a_sum_for_an_activation(scalars):
    network = build(norm="none", scalars=scalars, activation=nn.Tanh)
    layers, _ = trace(network, torch.rand(2, 3, 9, 9).double())
    assert [layer.name for layer in layers] == list(weight_layers(network))
    for layer in layers:
        if layer.name.endswith("conv1"):
            torch.testing.assert_close(layer.activation, layer.preactivation.tanh())
        else:
            assert layer.activation is None


@pytest.mark.parametrize(
    ("depth", "nearest"), [(21, "20 and 26"), (7, "8 and 14"), (2, "8 and 14")]
)
def test_a_depth_other_than_6n_plus_2_is_rejected(depth: int, nearest: str):
    with pytest.raises(ValueError, match=f"depth={depth}: must be 6n .* nearest are {nearest}"):
        ResNet(depth=depth)


def test_fixup_scalars_exclude_a_norm():
    with pytest.raises(
        ValueError, match=r"scalars=fixup replaces the normalization: set norm=none"
    ):
        ResNet(scalars="fixup")


def test_maxout_is_rejected():
    with pytest.raises(ConfigError, match="activation=maxout changes the number of channels"):
        ResNet().build(CIFAR, 10, Maxout)
