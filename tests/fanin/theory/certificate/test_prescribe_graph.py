"""`prescribe`, `explain` and `assert_healthy` on networks with branches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from residual_networks import ResidualMlp, ResNet, digits
from torch import nn

from fanin import explain, prescribe
from fanin.inits import HeNormal, Init
from fanin.models import ResNet as FaninResNet
from fanin.theory.certificate import UnhealthyInit, assert_healthy, certify
from fanin.theory.gains import find_gains
from fanin.theory.graph.branches import Branch, find_branches
from fanin.theory.graph.network import parse_graph
from fanin.theory.moments import declared_moments


def _branches(net: nn.Module) -> list[Branch]:
    moments = declared_moments(net, Init(HeNormal()))
    return find_branches(parse_graph(net, moments, digits(1)).plan)


def test_branches_of_residual_blocks() -> None:
    first, second = _branches(ResNet(4).double())
    assert (first.first, first.last, first.norms) == ({"layer1.conv1"}, {"layer1.conv2"}, set())
    assert (second.first, second.last, second.norms) == ({"layer2.conv1"}, {"layer2.conv2"}, set())
    first, second = _branches(ResNet(4, "group").double())
    assert (first.last, first.norms) == (set(), {"layer1.norm2"})
    assert (second.last, second.norms) == (set(), {"layer2.norm2"})


class Sums(nn.Module):
    """Sums of three terms: with a skip, with a pooled one, and of layers only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        for name in ("plus", "minus", "next", "one", "two"):
            setattr(self, name, nn.Conv2d(4, 4, 3, padding=1))
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.head = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.plus(x.relu()) - self.minus(x.tanh())
        x = x + self.pool(x) + self.next(x.relu())
        x = self.one(x.relu()) + self.two(x.relu())
        return self.head(x.mean((2, 3)))


def test_branches_of_sums_of_three_terms() -> None:
    assert [branch.last for branch in _branches(Sums())] == [{"plus"}, {"minus"}, {"next"}]


def test_forward_gains_give_the_target_and_scale_the_branches() -> None:
    net, x = ResNet(16), digits()
    prescription = prescribe(net, x, target=2.0)
    rows = {
        layer.name: layer.q
        for layer in certify(net, x, init=prescription.init, theories=("field",)).layers
    }
    for name, q in rows.items():
        if name in prescription.gains:
            expected = 1.0 if name.endswith("conv2") else 2.0  # two branches
            assert q == pytest.approx(expected, rel=0.02), name
    assert list(prescription.gains) == [name for name in rows if "add" not in name]
    text = str(prescription)
    assert "layer1.conv2" in text


def test_prescribed_moments_agree_with_draws() -> None:
    """Each of the five weight layers changes a moment by a few units of 1/width at most."""
    table = prescribe(ResidualMlp(3, 256), digits()).check(draws=48)
    for row in table.itertuples():
        for quantity in ("preact_m2", "vjp_m2"):
            value = getattr(row, quantity)
            error = getattr(row, f"{quantity}_se")
            assert (
                abs(getattr(row, f"{quantity}_measured") / value - 1) < 4 * error / value + 5 / 256
            )


def test_prescription_makes_a_deep_network_healthy() -> None:
    net, x = ResidualMlp(16), digits()
    with pytest.raises(UnhealthyInit, match="exploding"):
        assert_healthy(net, x, init="he_normal", quiet=True)
    prescription = prescribe(net, x)
    assert_healthy(certify(net, x, init=prescription.init, theories=("field",)))


def test_the_code_sets_the_scales_of_normalizations() -> None:
    net, x = ResNet(16, "group"), digits()
    prescription = prescribe(net, x)
    assert prescription.branch_scales == pytest.approx(
        {"layer1.norm2": 0.5**0.5, "layer2.norm2": 0.5**0.5}
    )
    assert float(net.layer1.norm2.weight[0].detach()) == 1  # the model is not changed
    names: dict[str, object] = {}
    exec(prescription.torch_code, names)
    names["init_weights"](net)
    assert float(net.layer1.norm2.weight[0].detach()) == pytest.approx(0.5**0.5, rel=1e-5)
    weight = net.layer1.conv1.weight.detach()
    expected = math.sqrt(float(prescription.moments["layer1.conv1"].weight.var))
    assert float(weight.std()) == pytest.approx(expected, rel=5 / (2 * weight.numel()) ** 0.5)


def test_zero_init_layers_keep_a_gain_of_one() -> None:
    net = FaninResNet(depth=8, width=4, norm="none", zero_init=True).build((1, 8, 8), 10, nn.ReLU)
    gains = prescribe(net, digits()).gains
    assert gains["block1.branch.conv2"] == 1
    assert gains["conv1"] != 1


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_backward_gains_keep_the_cotangent_of_a_branch(norm: str) -> None:
    """Only the second layer of a block reads the first, so what it sends is the first's E[d^2].

    A normalization between them makes this depend on the gain of the first instead.
    """
    net, x = ResNet(4, norm), digits()
    prescription = prescribe(net, x, direction="backward")
    for name, scale in prescription.branch_scales.items():
        nn.init.constant_(net.get_parameter(f"{name}.weight"), scale)
    certificate = certify(net, x, init=prescription.init, theories=("field",))
    for name in ("layer1.conv1", "layer2.conv1"):
        vjp_m2 = certificate.layer(name).predicted["vjp_m2"]
        assert vjp_m2.value == pytest.approx(1, abs=0.02 + 3 * vjp_m2.sampling_se), name


class Plain(nn.Module):
    """A sequence of layers as a graph."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in self.net:
            x = module(x)
        return x


def test_backward_gains_of_a_sequence_are_those_of_the_graph() -> None:
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(8 * 36, 16), nn.Tanh(), nn.Linear(16, 10)),
    ).double()
    moments, x = declared_moments(net, Init(HeNormal())), digits(1).double()
    graph = {f"net.{name}": layer for name, layer in moments.items()}
    for direction in ("backward", "both"):
        expected = find_gains(net, moments, x, direction=direction)
        found = find_gains(Plain(net), graph, x, direction=direction)
        for name, gain in expected.items():
            assert found[f"net.{name}"] == pytest.approx(gain, rel=0.01), (direction, name)


def test_factors_multiply_to_measured_over_he() -> None:
    explanation = explain(ResNet(8, "group"), digits(1), "pytorch_default", draws=4)
    ends = explanation.ends.set_index(["quantity", "layer_name"])
    for quantity in ("preact_m2", "vjp_m2"):
        for name, factors in explanation.factors(quantity).iterrows():
            end = ends.loc[quantity, name]
            assert np.prod(factors.to_numpy()) == pytest.approx(end.measured / end.he, rel=1e-9)
    assert explanation.width_method == "simulated"
    assert "layer1.add" in str(explanation)


def significant_steps(net: nn.Module, images: torch.Tensor, init: object) -> set[str]:
    """Return the steps of theory with a factor other than 1 in any row, forward."""
    frame = explain(net, images, init, draws=2).frame
    rows = frame[(frame.quantity == "preact_m2") & ~frame.step.isin(["width", "rest"])]
    return set(rows.step[np.log(rows.factor).abs() > 1e-9 + 12.9 * rows.log_se])


class Block(nn.Module):
    """A residual block of linear layers or 1x1 convolutions."""

    def __init__(self, first: nn.Module, inner: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.activation = first, inner, activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return (x + self.inner(self.activation(x))).flatten(1)


def dense(activation: nn.Module) -> nn.Module:
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 32))
    return Block(first, nn.Linear(32, 32), activation)


def conv(padding: int) -> nn.Module:
    return Block(nn.Conv2d(1, 8, 3, padding=padding), nn.Conv2d(8, 8, 1), nn.ReLU())


@pytest.mark.parametrize(
    ("net", "init", "steps"),
    [
        (dense(nn.ReLU()), HeNormal(), set()),
        (dense(nn.Tanh()), HeNormal(), {"activation"}),
        (dense(nn.ReLU()), Init(HeNormal(), bias=0.5), {"biases"}),
        (conv(1), HeNormal(), {"padding"}),
        (conv(0), HeNormal(), {"real data"}),
    ],
    ids=["nothing", "activation", "biases", "padding", "data"],
)
def test_single_violated_assumption_is_the_only_factor(
    net: nn.Module, init: object, steps: set[str]
) -> None:
    assert significant_steps(net, digits(1), init) == steps


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_he_normalizes_by_expected_statistics(norm: str) -> None:
    """He's formula: a normalized signal has E[y^2] = 1, and ReLU with He's init keeps it."""
    explanation = explain(ResNet(4, norm), digits(2), "he_normal", draws=4)
    ends = explanation.ends.set_index(["quantity", "layer_name"])
    eps = 1e-5 * (1 + 1 / ends.he["preact_m2", "layer1.conv1"])  # of two normalizations
    for name in ("layer1.norm1", "layer1.conv2", "layer1.norm2"):
        assert ends.he["preact_m2", name] == pytest.approx(1, abs=eps)
    for quantity in ("preact_m2", "vjp_m2"):
        for name, factors in explanation.factors(quantity).iterrows():
            end = ends.loc[quantity, name]
            assert np.isfinite(factors).all()
            assert np.prod(factors.to_numpy()) == pytest.approx(end.measured / end.he, rel=1e-9)


def test_statistics_belong_to_the_step_real_data() -> None:
    """Batch normalization of one constant image would divide by 0."""
    net = nn.Sequential(conv(0), nn.Linear(8 * 36, 10))
    net[0].inner = nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
    assert significant_steps(net, digits(1), HeNormal()) == {"real data"}
