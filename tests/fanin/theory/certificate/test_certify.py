"""`certify`: predictions, weight moments, measured draws and output formats."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from certified_networks import FAST_THEORIES, conv_net, images, mlp
from rich.console import Console
from scipy import stats
from torch import nn

from fanin.errors import ConfigError
from fanin.inits import Constant, HeNormal, Init, Lsuv, PytorchDefault
from fanin.theory import predict
from fanin.theory.certificate import PredictedValue, certify, print_certificate
from fanin.theory.certificate.weights import resolve_moments
from fanin.theory.layer_kind import UnpredictableLayer


def test_nested_layers_have_module_paths() -> None:
    certificate = certify(conv_net(), images(), init=HeNormal(), theories=FAST_THEORIES)
    assert [layer.name for layer in certificate.layers] == ["0.0", "0.3", "2"]
    assert [layer.layer for layer in certificate.layers] == [1, 2, 3]
    assert [layer.positions for layer in certificate.layers] == [144, 25, 1]
    assert [layer.output_shape for layer in certificate.layers] == [(8, 12, 12), (8, 5, 5), (10,)]
    assert [layer.parameters for layer in certificate.layers] == [80, 584, 2010]
    assert [layer.activation for layer in certificate.layers] == ["ReLU", "ReLU", ""]


def test_init_scheme_and_moments_give_equal_predictions() -> None:
    net, x = conv_net(), images()
    moments = resolve_moments(net, HeNormal()).moments
    first, *others = (
        certify(net, x, init=init, theories=FAST_THEORIES).frame
        for init in (Init(HeNormal()), HeNormal(), moments)
    )
    assert all(first.equals(other) for other in others)


def test_certify_keeps_model_and_random_state() -> None:
    net = conv_net().train()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    certify(
        net,
        images(),
        init=HeNormal(),
        theories=FAST_THEORIES,
        measure=2,
        labels=torch.tensor([0, 1]),
    )
    assert net.training
    assert next(net.parameters()).dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], entry) for name, entry in net.state_dict().items())


def test_estimated_moments_match_pytorch_default() -> None:
    """A variance of n entries has a relative error of at most sqrt(2 / n)."""
    torch.manual_seed(0)
    net = conv_net(32)
    estimated, declared = (resolve_moments(net, init) for init in (None, PytorchDefault()))
    assert estimated.source == "estimated"
    for name, layer in estimated.moments.items():
        n = net.get_submodule(name).weight.numel()
        expected = declared.moments[name].weight.var
        assert layer.weight.mean == 0  # within 4 standard errors of 0, so set to 0
        assert layer.weight.var == pytest.approx(expected, rel=4 * (2 / n) ** 0.5)


def test_constant_weights_are_estimated_exactly() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    with torch.no_grad():
        net[1].weight.fill_(0.25)
        net[1].bias.zero_()
    (layer,) = resolve_moments(net, None).moments.values()
    assert (layer.weight.mean, layer.weight.var) == (0.25, 0.0)
    assert (layer.bias.mean, layer.bias.var) == (0.0, 0.0)


def test_zero_kernel_taps_are_estimated_as_zero() -> None:
    conv = nn.Conv2d(8, 8, 3)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, 1, 1] = torch.linalg.qr(torch.randn(8, 8)).Q
    var = resolve_moments(nn.Sequential(conv), None).moments["0"].weight.var
    assert isinstance(var, torch.Tensor)
    assert var[1, 1].item() == pytest.approx(1 / 8, rel=1e-6)
    assert var.sum() == var[1, 1]


def test_layer_without_biases_ignores_declared_biases() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8, bias=False))
    certificate = certify(
        net, torch.zeros(1, 1, 8, 8), init=PytorchDefault(), theories=FAST_THEORIES
    )
    assert certificate.layers[0].q == 0


def test_measured_draws_agree_with_the_prediction() -> None:
    net = mlp(nn.ReLU(), depth=2)
    certificate = certify(net, images(side=8), init=HeNormal(), theories=FAST_THEORIES, measure=40)
    assert certificate.draws.draw.nunique() == 40
    for layer in certificate.layers:  # exact at every width for ReLU without biases
        mean, error = layer.measured["preact_m2"]
        assert abs(mean - layer.q) < 4 * error


def test_estimated_moments_measure_the_model_once() -> None:
    certificate = certify(conv_net(), images(), theories=FAST_THEORIES, measure=16)
    assert certificate.draws.draw.nunique() == 1
    assert certificate.moments == "estimated"
    assert {layer.moments for layer in certificate.layers} == {"estimated"}


def test_schemes_with_equal_moments_share_a_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = predict.predict_mean_field
    monkeypatch.setattr(
        predict, "predict_mean_field", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    x = images(3)
    for scheme in (HeNormal(), HeNormal(per_group=True)):
        certify(conv_net(5), x, init=scheme, theories=("mean_field",))
    assert len(calls) == 1
    certify(conv_net(5), 2 * x, init=HeNormal(), theories=("mean_field",))
    assert len(calls) == 2


def test_json_has_all_layers_and_no_infinity() -> None:
    init = Init(HeNormal(), gain=1e100)
    certificate = certify(conv_net(), images(), init=init, theories=FAST_THEORIES)
    assert certificate.layers[-1].q == math.inf

    def reject_constant(constant: str) -> float:
        raise AssertionError(f"{constant} is not valid JSON")

    contents = json.loads(certificate.to_json(), parse_constant=reject_constant)
    assert [layer["layer_name"] for layer in contents["layers"]] == ["0.0", "0.3", "2"]
    assert contents["layers"][-1]["predicted"]["preact_m2"]["value"] is None
    assert {verdict["problem"] for verdict in contents["verdicts"]} >= {"exploding"}


def test_table_fits_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
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
        assert f"\n{layer.layer}  {layer.name} " in out
        assert layer.module.partition("(")[0] in out
    console = Console(width=100)
    console.print(certificate)  # rich prints the same table without a title
    assert "a network" not in capsys.readouterr().out


def test_interval_of_a_predicted_value() -> None:
    """The interval is that of log m ~ N(log value - s^2 / 2, s^2)."""
    low, high = PredictedValue(2.0, 0.5, 0.0, "finite_width", "sampled").interval or (0, 0)
    assert math.log(high / low) == pytest.approx(2 * 1.959964 * 0.5, rel=1e-6)
    assert math.sqrt(low * high) == pytest.approx(2.0 * math.exp(-0.125))
    assert PredictedValue(2.0, math.nan, 0.0, "field", "exact").interval is None


def test_interval_of_a_chi_squared_value() -> None:
    shape = {"log_sd": math.pi / 2**0.5, "log_skew": -1.5351415907229}
    chi_squared = PredictedValue(
        value=1.0, sampling_se=0.0, theory="finite_width", method="sampled", **shape
    )
    # The shape of the gamma distribution is interpolated, with a relative error of 2e-7.
    assert chi_squared.interval == pytest.approx(stats.chi2.ppf([0.025, 0.975], 1), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"theories": ("feild",)}, "no theory feild; did you mean field"),
        ({"init": 3}, "init=3 is not supported; pass a name such as 'he_normal'"),
        ({"loss": "crossentropy", "measure": 1}, "loss=crossentropy: did you mean cross_entropy"),
    ],
)
def test_invalid_arguments_raise(arguments: dict, message: str) -> None:
    valid = {"init": Constant(0.1), "labels": torch.tensor([0, 1]), "theories": FAST_THEORIES}
    with pytest.raises(ConfigError, match=message):
        certify(conv_net(), images(), **(valid | arguments))


def test_scheme_without_moments_raises() -> None:
    with pytest.raises(UnpredictableLayer, match=r"layer 0\.0: Lsuv declares no moments"):
        certify(conv_net(), images(), init=Lsuv())
