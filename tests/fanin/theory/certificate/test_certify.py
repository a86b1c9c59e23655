"""`certify`: every layer of a network, predicted from whatever is known of its weights."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from certified_networks import COARSE, conv_net, deep, images
from rich.console import Console
from torch import nn

from fanin.errors import ConfigError
from fanin.inits import Constant, HeNormal, HeUniform, Init, Lsuv, PytorchDefault
from fanin.theory import theories
from fanin.theory.certificate import PredictedValue, certify, print_certificate
from fanin.theory.certificate.weights import resolve_moments
from fanin.theory.layer_kind import UnpredictableLayer


def test_layers_of_nested_sequences_keep_their_paths() -> None:
    certificate = certify(conv_net(), images(), init=HeNormal(), theories=COARSE)
    assert [layer.name for layer in certificate.layers] == ["0.0", "0.3", "2"]
    assert [layer.layer for layer in certificate.layers] == [1, 2, 3]
    assert [layer.positions for layer in certificate.layers] == [144, 25, 1]


def test_an_init_its_scheme_and_its_moments_make_the_same_predictions() -> None:
    net, x = conv_net(), images()
    moments = resolve_moments(net, HeNormal()).moments
    first, *others = (
        certify(net, x, init=init, theories=COARSE).frame
        for init in (Init(HeNormal()), HeNormal(), moments)
    )
    assert all(first.equals(other) for other in others)


def test_certifying_leaves_the_model_and_the_random_state_alone() -> None:
    net = conv_net().train()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    certify(net, images(), init=HeNormal(), theories=COARSE, measure=2, labels=torch.tensor([0, 1]))
    assert net.training
    assert next(net.parameters()).dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], entry) for name, entry in net.state_dict().items())


def test_torchs_default_is_recognized_in_a_model_that_torch_initialized() -> None:
    """N entries tell a variance to a relative sqrt(2 / n), or less for uniform weights."""
    torch.manual_seed(0)
    net = conv_net(32)
    estimated, declared = (resolve_moments(net, init) for init in (None, PytorchDefault()))
    assert estimated.source == "estimated"
    for name, layer in estimated.moments.items():
        n = net.get_submodule(name).weight.numel()
        expected = declared.moments[name].weight.var
        assert layer.weight.mean == 0  # within 4 standard errors, so taken for 0
        assert layer.weight.var == pytest.approx(expected, rel=4 * (2 / n) ** 0.5)


def test_what_all_entries_share_is_estimated_exactly() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    with torch.no_grad():
        net[1].weight.fill_(0.25)
        net[1].bias.zero_()
    (layer,) = resolve_moments(net, None).moments.values()
    assert (layer.weight.mean, layer.weight.var) == (0.25, 0.0)
    assert (layer.bias.mean, layer.bias.var) == (0.0, 0.0)


def test_taps_that_are_zero_throughout_are_estimated_as_such() -> None:
    conv = nn.Conv2d(8, 8, 3)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, 1, 1] = torch.linalg.qr(torch.randn(8, 8)).Q
    var = resolve_moments(nn.Sequential(conv), None).moments["0"].weight.var
    assert isinstance(var, torch.Tensor)
    assert var[1, 1].item() == pytest.approx(1 / 8, rel=1e-6)
    assert var.sum() == var[1, 1]


def test_a_layer_without_biases_has_none_whatever_the_scheme_declares() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8, bias=False))
    certificate = certify(net, torch.zeros(1, 1, 8, 8), init=PytorchDefault(), theories=COARSE)
    assert certificate.layers[0].q == 0


def test_measured_draws_stand_beside_the_prediction() -> None:
    net = deep(nn.ReLU(), depth=2)
    certificate = certify(net, images(side=8), init=HeNormal(), theories=COARSE, measure=40)
    assert certificate.draws.draw.nunique() == 40
    for layer in certificate.layers:  # exact at every width, for ReLU without biases
        mean, error = layer.measured["preact_m2"]
        assert abs(mean - layer.q) < 4 * error


def test_a_model_initialized_by_hand_is_the_one_draw_there_is() -> None:
    certificate = certify(conv_net(), images(), theories=COARSE, measure=16)
    assert certificate.draws.draw.nunique() == 1
    assert certificate.moments == "estimated"
    assert {layer.moments for layer in certificate.layers} == {"estimated"}


def test_schemes_of_equal_moments_share_one_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = []
    real = theories.predict_mean_field
    monkeypatch.setattr(
        theories, "predict_mean_field", lambda *a, **k: walks.append(1) or real(*a, **k)
    )
    x = images(3)
    for scheme in (HeNormal(), HeUniform()):
        certify(conv_net(5), x, init=scheme, theories=("mean_field",))
    assert len(walks) == 1
    certify(conv_net(5), 2 * x, init=HeNormal(), theories=("mean_field",))
    assert len(walks) == 2


def test_json_holds_every_layer_and_no_infinity() -> None:
    wild = certify(conv_net(), images(), init=Init(HeNormal(), gain=1e100), theories=COARSE)
    assert wild.layers[-1].q == math.inf

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    told = json.loads(wild.to_json(), parse_constant=refuse)
    assert [layer["layer_name"] for layer in told["layers"]] == ["0.0", "0.3", "2"]
    assert told["layers"][-1]["predicted"]["preact_m2"]["value"] is None
    assert {verdict["problem"] for verdict in told["verdicts"]} >= {"exploding"}


def test_the_table_fits_a_hundred_columns(capsys: pytest.CaptureFixture[str]) -> None:
    certificate = certify(
        *(conv_net(), images(1)),
        init=HeNormal(),
        measure=3,
        labels=torch.tensor([0]),
    )
    print_certificate(certificate, title="a network", width=100)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "…" not in out
    for layer in certificate.layers:
        assert f" {layer.name} " in out
    console = Console(width=100)
    console.print(certificate)  # the same, as rich objects print
    assert "a network" not in capsys.readouterr().out


def test_one_draw_lies_between_the_bounds_that_its_spread_sets() -> None:
    """Log m ~ N(log value - s^2 / 2, s^2)."""
    low, high = PredictedValue(2.0, 0.5, 0.0, "finite_width").interval or (0, 0)
    assert math.log(high / low) == pytest.approx(2 * 1.959964 * 0.5, rel=1e-6)
    assert math.sqrt(low * high) == pytest.approx(2.0 * math.exp(-0.125))
    assert PredictedValue(2.0, math.nan, 0.0, "field").interval is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"theories": ("feild",)}, "no theory feild; did you mean field"),
        ({"init": 3}, "init=3: expected an fanin.inits.Init"),
        ({"loss": "crossentropy", "measure": 1}, "loss=crossentropy: did you mean cross_entropy"),
    ],
)
def test_what_cannot_be_is_said(arguments: dict, told: str) -> None:
    known = {"init": Constant(0.1), "labels": torch.tensor([0, 1]), "theories": COARSE}
    with pytest.raises(ConfigError, match=told):
        certify(conv_net(), images(), **(known | arguments))


def test_a_scheme_that_only_data_determine_is_refused_by_name() -> None:
    with pytest.raises(UnpredictableLayer, match=r"layer 0\.0: Lsuv declares no moments"):
        certify(conv_net(), images(), init=Lsuv())
