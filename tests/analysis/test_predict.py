"""Tests of `fanin predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from analysis import predict

SMALL = ("data.n_train=200", "data.n_test=100", "probe.size=4", "probe.images=1")
TINY = (*SMALL, "theories=[he,mean_field]")  # higher theories are slower
QUANTITIES = {"preact_m2", "preact_mean", "preact_var", "vjp_m2", "weight_vjp_m2"}
ALEXNET = [f"conv{n}" for n in range(1, 6)] + [f"fc{n}" for n in range(1, 4)]

Predict = Callable[..., str]


@pytest.fixture
def run_predict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Predict:
    """Return a function `run_predict(*overrides)` that runs the command in this process."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["predict", *arguments])
        GlobalHydra.instance().clear()
        predict.main()
        return capsys.readouterr().out

    return run


def _no_constant(name: str) -> float:
    raise AssertionError(f"{name} is not valid JSON")


def _layers(text: str) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = json.loads(text, parse_constant=_no_constant)["layers"]
    return layers


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (("model=mlp",), ["fc1", "fc2", "fc3"]),
        (("model=linear", "init=zeros"), ["fc1"]),
        (("model=plain", "model.depth=3", "activation=tanh"), ["conv1", "conv2", "fc1"]),
        (("model=alexnet", "model.dropout=0.5"), ALEXNET),
        (("model=alexnet", "model.lrn=true"), ALEXNET),
        (("model=two_layer", "model.norm=batch"), ["conv1", "fc1"]),
        (("model=mlp", "model.norm=layer"), ["fc1", "fc2", "fc3"]),
        (("init=uniform", "init.a=0.0", "init.b=1.0"), ["conv1", "fc1"]),
        (("init=he_normal", "init.bias={mean: 0.0, std: 0.1}"), ["conv1", "fc1"]),
        (("init=pytorch_default",), ["conv1", "fc1"]),
    ],
)
def test_json_has_an_object_for_every_weight_layer(
    run_predict: Predict, overrides: tuple[str, ...], names: list[str]
) -> None:
    layers = _layers(run_predict(*TINY, *overrides, "format=json"))
    assert [layer["layer_name"] for layer in layers] == names
    assert [layer["layer"] for layer in layers] == list(range(1, len(names) + 1))
    for layer in layers:
        assert set(layer["he"]) & QUANTITIES == set(layer["mean_field"]) & QUANTITIES == QUANTITIES


def test_he_normal_keeps_the_second_moment_of_a_relu_network(run_predict: Predict) -> None:
    layers = _layers(run_predict(*TINY, "model=mlp", "init=he_normal", "format=json"))
    moments = [layer[theory]["preact_m2"] for layer in layers for theory in ("he", "mean_field")]
    # Each is a product of a few factors that float64 rounds.
    assert moments == pytest.approx([moments[0]] * 6, rel=1e-12)


def test_a_gain_of_one_layer_applies_to_that_layer(run_predict: Predict) -> None:
    def second_moments(*overrides: str) -> list[float]:
        layers = _layers(run_predict(*TINY, *overrides, "format=json"))
        return [layer["he"]["preact_m2"] for layer in layers]

    default, halved = second_moments(), second_moments("init.layers.fc1.gain=0.5")
    assert halved == pytest.approx([default[0], default[1] / 4])


def test_only_mean_field_includes_the_weight_mean(run_predict: Predict) -> None:
    uniform = ("init=uniform", "init.a=0.0", "init.b=1.0")
    (_, last) = _layers(run_predict(*TINY, *uniform, "format=json"))
    assert last["he"]["preact_mean"] == 0
    assert last["mean_field"]["preact_mean"] > 0
    assert last["mean_field"]["preact_m2"] > 1e3 * last["he"]["preact_m2"]


def test_overflow_is_null_in_json_and_inf_in_the_table(run_predict: Predict) -> None:
    huge = ("model=alexnet", "init=normal", "init.std=1e30")
    layers = _layers(run_predict(*TINY, *huge, "format=json"))
    assert layers[0]["he"]["preact_m2"] > 1e60
    assert layers[-1]["he"]["preact_m2"] is None
    assert "inf" in run_predict(*TINY, *huge)


def test_images_with_nan_are_refused(
    run_predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_predict(*TINY, "data.corrupt.share=0.5", "data.corrupt.kind=missing")
    assert "values are NaN or infinite, in" in capsys.readouterr().err


@pytest.mark.parametrize("measure", [0, 2])
def test_the_table_has_a_row_per_layer_and_fits_100_columns(
    run_predict: Predict, measure: int
) -> None:
    small_gain = ("model=alexnet", "init.gain=1e-5")
    out = run_predict(*SMALL, *small_gain, f"measure={measure}", "theories=[he,mean_field,field]")
    lines = out.splitlines()
    (heading,) = [n for n, line in enumerate(lines) if line.startswith("#")]
    table = lines[heading + 2 : heading + 2 + len(ALEXNET)]
    numbered = [[str(number), name] for number, name in enumerate(ALEXNET, start=1)]
    assert [line.split()[:2] for line in table] == numbered
    assert "…" not in out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 100
    assert out.startswith("digits-alexnet-relu-henormal-s0-")
    assert ("measured" in lines[heading]) == (measure > 0)
    assert lines[1].startswith("✗ The signal (rms of the layers' outputs) shrinks ")
    assert "In a config: init=he_normal" in out
    verbose = run_predict(*TINY, *small_gain, "verbose=true")
    assert "theories: he, mean_field" in verbose
    assert "theories" not in out


def test_verbose_must_be_a_boolean(
    run_predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_predict(*TINY, "verbose=all")
    assert "verbose=all: expected true or false" in capsys.readouterr().err


def test_all_theories_predict_by_default_and_the_highest_is_used(run_predict: Predict) -> None:
    layers = _layers(run_predict(*SMALL, "model=mlp", "format=json"))
    for layer in layers:
        for theory in ("he", "mean_field", "field", "finite_width"):
            assert set(layer[theory]) >= QUANTITIES
        predicted = layer["predicted"]["preact_m2"]
        assert predicted["theory"] == "finite_width"
        low, high = predicted["interval"]
        assert low < predicted["value"] < high


def test_theories_without_a_formula_are_skipped(
    run_predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    positive = ("init=uniform", "init.a=0.0", "init.b=0.1")
    overrides = (*SMALL, *positive, "model=mlp", "model.norm=layer", "format=json")
    layers = _layers(run_predict(*overrides))
    assert all("mean_field" in layer and "field" not in layer for layer in layers)


def test_the_explanation_has_a_factor_for_each_assumption(run_predict: Predict) -> None:
    small = ("model=two_layer", "model.channels=4", "images=1")
    out = run_predict(*SMALL, *small, "format=explain", "measure=4")
    for step in ("activation", "weight", "biases", "padding", "pooling", "width", "rest"):
        assert step in out
    assert "4 draws" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("init=lsuv",), "no prediction for layer conv1: Lsuv declares no moments"),
        (("init=he_norml",), "init=he_norml: no such option; did you mean he_normal"),
        (("modle=mlp",), "modle: no such key; did you mean model?"),
        (
            ("model=mlp", "model.widht=3"),
            "model.widht: model=mlp has no such key; did you mean width",
        ),
        (("format=xml",), "format=xml: expected one of table, json, explain"),
        (("theories=[feild]",), "theories: no theory feild; did you mean field?"),
        (
            ("theories=he",),
            "theories=he: expected a list of theories, such as theories=[he,mean_field]",
        ),
        (("images=0",), "images=0: expected an integer of at least 1"),
        (("measure=many",), "measure=many: expected an integer of at least 0"),
        (("fromat=json",), "fromat: no such key; did you mean format?"),
        (("init=he_normal,zeros",), "init=he_normal,zeros: "),
        (("-m", "init=he_normal"), "-m: fanin predict accepts only one cell; remove -m"),
        (("init.layers.conv9.gain=2",), "init.layers.conv9: no such layer"),
    ],
)
def test_invalid_arguments_exit_with_status_2(
    run_predict: Predict,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_predict(*arguments)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert len(error.splitlines()) <= 2


RESNET = ("model=resnet", "model.depth=8", "model.width=4", "data.side=8", "images=2")


@pytest.mark.parametrize(
    ("overrides", "n_rows"),
    [
        (("model.norm=none", "init=he_normal"), 11),
        (("model.norm=none", "model.scalars=fixup", "init=fixup"), 11),
        (("model.norm=batch", "model.version=v2", "model.shortcut=B"), 20),
    ],
)
def test_a_residual_model_has_a_row_for_each_layer_sum_and_norm(
    run_predict: Predict, overrides: tuple[str, ...], n_rows: int
) -> None:
    layers = _layers(run_predict(*SMALL, *RESNET, *overrides, "theories=[field]", "format=json"))
    assert [layer["layer"] for layer in layers] == list(range(1, n_rows + 1))
    names = [layer["layer_name"] for layer in layers]
    assert {"conv1", "block1.branch.conv1", "block1.add", "fc1"} <= set(names)
    assert all(set(layer["field"]) >= {"preact_m2", "vjp_m2"} for layer in layers)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("images=1", "theories=[he,mean_field]"),
            "no prediction for layer block1: ResidualBlock is not",
        ),
        (("data.side=28", "images=6"), "no prediction for layer input: it has 4704 positions on"),
    ],
)
def test_a_residual_model_is_refused_in_one_line(
    run_predict: Predict,
    capsys: pytest.CaptureFixture[str],
    overrides: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(SystemExit):
        run_predict(*SMALL[:2], "probe.size=8", *RESNET[:-2], *overrides)
    *progress, error = capsys.readouterr().err.splitlines()
    assert error.startswith(message)
    assert all(line.startswith("certify: ") for line in progress)


def test_a_custom_scheme_without_moments_is_refused(
    run_predict: Predict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "my_package.py").write_text(
        "import torch\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class MyInit:\n"
        "    def moments(self, weight):\n"
        "        return None\n"
        "    def sample(self, weight, generator):\n"
        "        return torch.zeros(weight.shape, dtype=torch.float64)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SystemExit) as exit_info:
        run_predict(*TINY, "init=custom", "init._target_=my_package.MyInit")
    assert exit_info.value.code == 2
    message = (
        "no prediction for layer conv1: MyInit declares no moments of the weights, which theory "
    )
    message += "needs\n"
    assert capsys.readouterr().err == message
