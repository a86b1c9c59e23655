"""`certify` on networks with branches: rows, agreement with draws, verdicts, refusals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from residual_networks import ResidualMlp, ResNet, digits
from torch import Tensor, nn

from fanin.inits import SkipInit, to_init
from fanin.models import ResNet as FaninResNet
from fanin.theory.certificate import assert_healthy, certify, print_certificate
from fanin.theory.field import Sampling
from fanin.theory.graph import predict_graph
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import declared_moments

FIELD = ("field",)
QUANTITIES = ("preact_m2", "vjp_m2", "weight_vjp_m2")


def test_rows_are_weight_layers_sums_and_normalizations() -> None:
    layers = certify(ResNet(8, "group"), digits(), init="he_normal", theories=FIELD).layers
    assert [layer.name for layer in layers] == [
        *("stem", "layer1.conv1", "layer1.norm1", "layer1.conv2", "layer1.norm2", "layer1.add"),
        *("layer2.downsample.0", "layer2.downsample.1", "layer2.conv1", "layer2.norm1"),
        *("layer2.conv2", "layer2.norm2", "layer2.add", "fc"),
    ]
    assert [layer.layer for layer in layers] == list(range(1, 15))
    rows = {layer.name: layer for layer in layers}
    assert rows["layer1.conv1"].module == "Conv2d(8, 8, 3)"
    assert rows["layer1.norm1"].module == "GroupNorm(4, 8)"
    assert rows["layer1.add"].module == "add"
    assert rows["layer2.add"].output_shape == (16, 4, 4)
    assert rows["layer1.norm1"].parameters == 16
    assert rows["layer1.add"].parameters == 0
    assert [rows[name].activation for name in ("stem", "layer1.conv1", "layer1.add", "fc")] == [
        *("ReLU", "ReLU", "ReLU", "")
    ]
    assert rows["layer1.conv2"].activation == ""  # the sum comes first
    assert [rows[name].input_activation for name in ("stem", "layer1.conv2", "fc")] == [
        *("images", "ReLU", "ReLU")
    ]
    on_all_paths = [layer.name for layer in layers if not layer.in_branch]
    assert on_all_paths == ["stem", "layer1.add", "layer2.add", "fc"]


def test_values_are_those_of_theory_field() -> None:
    net, x = ResNet(8), digits()
    certificate = certify(net, x, init="he_normal", theories=FIELD)
    moments = declared_moments(net, to_init("he_normal"))
    expected = predict_graph(net.double(), moments, x, sampling=Sampling())
    for quantity in QUANTITIES:
        values = expected.value(quantity).mean(0)
        for layer, value in zip(certificate.layers, values, strict=True):
            np.testing.assert_allclose(layer.value(quantity), value, rtol=1e-12)
    assert {layer.method for layer in certificate.layers} == {"sampled"}


@pytest.mark.parametrize("norm", [pytest.param("none", marks=pytest.mark.slow), "group", "batch"])
def test_measured_draws_agree_with_independent_drawn_networks(norm: str) -> None:
    """Measured rows and simulated rows of one width have equal expectations, for every row."""
    draws = 48
    certificate = certify(
        ResNet(8, norm), digits(3), init="he_normal", theories=("finite_width",), measure=draws
    )
    scores = []
    for layer in certificate.layers:
        for quantity in QUANTITIES:
            if quantity not in layer.measured:
                continue
            mean, error = layer.measured[quantity]
            predicted = layer.predicted[quantity]
            assert predicted.method == "simulated"
            if error > 1e-9 * mean:  # the cotangent at the logits is fixed
                scores.append((mean - predicted.value) / math.hypot(error, predicted.sampling_se))
    assert len(scores) > 2 * len(certificate.layers)
    # Largest of n dependent scores; 4.5 has a probability of 7e-6 for each, times n below 1e-3.
    # Means of positive skewed moments have heavier tails on 48 draws.
    assert max(np.abs(scores)) < 4.5


def test_theory_agrees_with_draws_of_a_wide_network() -> None:
    """Each of the five weight layers changes a moment by a few units of 1/width at most."""
    width, depth = 256, 3
    certificate = certify(
        ResidualMlp(depth, width), digits(), init="he_normal", theories=FIELD, measure=48
    )
    tested = 0
    for layer in certificate.layers:
        for quantity in QUANTITIES:
            if quantity in layer.measured:
                mean, error = layer.measured[quantity]
                bias = (depth + 2) / width
                value = layer.value(quantity)
                assert abs(mean / value - 1) < 4 * error / value + bias, (layer.name, quantity)
                tested += 1
    assert tested == 2 * 8 + 5


def test_intervals_are_simulated_and_values_are_those_of_the_theory() -> None:
    net, x = ResidualMlp(2, 32), digits()
    whole = certify(net, x, init="he_normal", measure=32)
    field = certify(net, x, init="he_normal", theories=FIELD)
    for layer, expected in zip(whole.layers, field.layers, strict=True):
        assert layer.q == expected.q
        assert layer.method == "exact"
        assert layer.interval_method == "simulated"
        low, high = layer.interval
        assert low < layer.measured["preact_m2"][0] < high
        assert expected.interval is None
    text = str(whole)
    assert "Method of the intervals: simulated" in text
    assert "theories he and mean_field" in text
    assert json.loads(whole.to_json())["layers"][0]["predicted"]["preact_m2"]["interval_method"]


def test_dead_units_and_correlation_agree_with_draws() -> None:
    certificate = certify(
        ResidualMlp(2, 256), digits(3), init="he_normal", theories=FIELD, measure=32
    )
    for layer in certificate.layers[:-1]:
        for quantity in ("dead_fraction", "input_correlation"):
            if quantity == "dead_fraction" and not layer.activation:
                continue
            mean, error = layer.measured[quantity]
            assert 0 < layer.value(quantity) < 1
            assert abs(mean - layer.value(quantity)) < 4 * error + 4 / 256


def test_initial_loss_is_predicted() -> None:
    net, x = ResidualMlp(1, 256), digits()
    output = certify(net, x, init="he_normal", theories=FIELD).output
    losses = []
    for seed in range(200):
        torch.manual_seed(seed)
        for parameter in net.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.zeros_(parameter)
        with torch.no_grad():
            logits = net(x.float())
        losses.append(float((logits.logsumexp(1) - logits.mean(1)).mean()))  # random labels
    error = np.std(losses, ddof=1) / len(losses) ** 0.5
    assert abs(np.mean(losses) - output.initial_loss["cross_entropy"]) < 4 * error + 3 / 256


def test_a_deep_residual_network_explodes() -> None:
    """The second moment doubles in each block, so it grows 2^8 times rms in 16 blocks."""
    certificate = certify(ResidualMlp(16), digits(), init="he_normal", theories=FIELD)
    forward = [v for v in certificate.verdicts if v.quantity == "preact_m2"]
    assert {verdict.problem for verdict in forward} == {"exploding"}
    worst = next(v for v in forward if v.layer == "add_16")
    assert worst.value == pytest.approx(2**16, rel=1e-6)
    backward = [v for v in certificate.verdicts if v.quantity == "vjp_m2"]
    assert any("gradients grow" in v.message and "add" in v.message for v in backward)
    text = str(certificate)
    assert "prescribe(model, images)" in text
    assert_healthy(certify(ResidualMlp(16, scale=0.1), digits(), init="he_normal", theories=FIELD))


def test_small_weights_are_named_as_the_cause() -> None:
    certificate = certify(ResNet(8), digits(), init="normal", theories=FIELD)
    assert {v.problem for v in certificate.verdicts} == {"vanishing"}
    assert {v.layer for v in certificate.verdicts} <= {"layer1.add", "layer2.add", "fc", "stem"}
    assert any("too small for ReLU" in v.cause for v in certificate.verdicts)
    assert "kaiming_normal_" in certificate.fix.remedies[0].torch_code


def test_a_branch_that_starts_at_zero_is_healthy() -> None:
    network = FaninResNet(depth=8, width=8, norm="batch", zero_init=True)
    net = network.build((1, 8, 8), 10, nn.ReLU)
    certificate = certify(net, digits(3), init="he_normal", theories=FIELD)
    zero = certificate.layer("block1.branch.norm2")
    assert zero.q == 0
    assert zero.in_branch
    assert certificate.verdicts == ()


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_skipinit_scales_the_branches(alpha: float) -> None:
    """The sum has the second moment of the shortcut plus alpha^2 times that of the branch."""
    model = FaninResNet(depth=8, width=8, norm="none", version="v2", scalars="multiplier")
    net = model.build((1, 8, 8), 10, nn.ReLU)
    certificate = certify(net, digits(1), init=SkipInit(alpha), theories=FIELD)
    first, second = (certificate.layer(f"block1.{name}").q for name in ("branch.conv2", "add"))
    shortcut = certificate.layer("conv1").q / 2  # block1 follows a ReLU, which halves it
    assert second == pytest.approx(shortcut + alpha**2 * first, rel=0.01)
    assert next(m for m in net.modules() if type(m).__name__ == "Multiplier").scale.item() == 1


def test_model_and_random_state_stay_the_same() -> None:
    net = ResNet(4, "batch").train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    labels = torch.tensor([0, 1, 2])
    certify(net, digits(3), init="he_normal", theories=FIELD, measure=2, labels=labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_maps_have_the_moments_of_the_row() -> None:
    certificate = certify(ResNet(8), digits(), init="he_normal", theories=FIELD)
    maps = certificate.maps("layer2.add")
    assert maps.m2.shape == (2, 4, 4)
    assert maps.m2.mean() == pytest.approx(certificate.layer("layer2.add").q, rel=0.02)
    assert maps.vjp_m2.mean() == pytest.approx(
        certificate.layer("layer2.add").value("vjp_m2"), rel=0.02
    )


def test_table_fits_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    certificate = certify(
        ResNet(8, "group"), digits(1), init="he_normal", theories=FIELD, measure=3
    )
    print_certificate(certificate, width=100, verbose=True)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert all(f"\n{layer.layer:>2}  " in out for layer in certificate.layers)


class Refused(nn.Module):
    """A model with an operation without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.fc = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x * x.std()
        return self.fc(x.mean((2, 3)))


class Branching(Refused):
    """A model whose code depends on the values of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if x.mean() > 0:
            x = torch.relu(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Refused, r"layer std: .*test_certify_graph.py:\d+: x = x \* x.std\(\)"),
        (Branching, r"reads the value of a tensor at .*: if x.mean\(\) > 0.*use tensor operations"),
    ],
)
def test_a_refusal_names_the_line(model: type[nn.Module], message: str) -> None:
    with pytest.raises(UnpredictableLayer, match=message):
        certify(model(), digits(), init="he_normal")


def test_weights_of_another_mean_are_refused_by_name() -> None:
    with pytest.raises(UnpredictableLayer, match="layer stem: its weights have a mean other than"):
        certify(ResNet(4), digits(), init="uniform", theories=FIELD)


def test_theories_of_sequences_alone_are_refused() -> None:
    with pytest.raises(UnpredictableLayer, match="ResNet is not supported"):
        certify(ResNet(4), digits(), init="he_normal", theories=("he", "mean_field"))


def sequence_with(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 8, 3), layer, nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


def test_theories_other_than_field_read_a_sequence_with_an_unsupported_layer() -> None:
    net = sequence_with(nn.BatchNorm2d(8)).eval()  # running statistics
    layers = certify(net, digits(1), init="he_normal", theories=("he", "finite_width")).layers
    assert [(layer.name, layer.method) for layer in layers] == [
        *(("0", "simulated"), ("4", "simulated"))
    ]
    with pytest.raises(UnpredictableLayer, match="layer 1: ChannelShuffle"):
        certify(sequence_with(nn.ChannelShuffle(2)), digits(1), init="he_normal", theories=FIELD)


def test_group_norm_in_a_sequence_has_values_and_simulated_intervals() -> None:
    net = sequence_with(nn.GroupNorm(2, 8))
    certificate = certify(net, digits(1), init="he_normal")
    assert [layer.name for layer in certificate.layers] == ["0", "1", "4"]
    assert [layer.interval is None for layer in certificate.layers] == [False, True, False]
    frame = certificate.to_frame()
    assert frame.groupby("layer_name").layer.unique().map(list).to_dict() == {
        **{"0": [1], "1": [2], "4": [3]}
    }
