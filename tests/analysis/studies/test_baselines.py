"""Tests of the interface to anyinit and neural-tangents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from analysis.studies import other_tools
from analysis.studies.baselines import NOT_INSTALLED, VENV, as_layers, query_tools
from analysis.studies.networks import CASES, max_pooled
from fanin.errors import FaninError
from fanin.inits import HeNormal, Init, PytorchDefault, Uniform
from fanin.theory.moments import declared_moments

IMAGES = torch.ones(1, 1, 8, 8, dtype=torch.float64)


def fake_venv(folder: Path, result: str) -> str:
    """Create a Python that saves its stdin as request.json and prints a fixed result."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ncat > {folder}/request.json\n{result}\n")
    python.chmod(0o755)
    return str(folder)


def test_a_network_is_described_layer_by_layer() -> None:
    network = max_pooled((1, 8, 8))
    layers = as_layers(network, declared_moments(network, Init(PytorchDefault())))
    assert [layer["kind"] for layer in layers] == [
        *("conv", "relu", "max_pool", "conv", "relu", "max_pool", "conv", "relu"),
        *("flatten", "linear"),
    ]
    first = layers[0]
    assert (first["inputs"], first["outputs"], first["kernel"], first["padding"]) == (1, 64, 3, 1)
    assert first["fan_in"] == 9
    assert first["weight_var"] == pytest.approx(1 / 27)
    assert first["bias_var"] == pytest.approx(1 / 27)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title.partition(":")[0])
def test_every_case_can_be_described(case) -> None:
    channels, side = case.source.shape[0], case.side or case.source.shape[1]
    network = case.network(torch.zeros(1, channels, side, side))
    layers = as_layers(network, case.moments(network))
    assert sum(layer["kind"] in ("linear", "conv") for layer in layers) == len(
        case.moments(network)
    )
    json.dumps(layers)


def test_an_unsupported_module_is_an_error() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU())
    with pytest.raises(FaninError, match=r"layer 0: .* does not support this Conv2d"):
        as_layers(network, declared_moments(network, Init(HeNormal())))


def test_a_missing_tool_is_reported_as_not_installed(tmp_path: Path) -> None:
    network = max_pooled((1, 8, 8))
    moments = declared_moments(network, Init(HeNormal()))
    results = query_tools(network, moments, IMAGES, ["anyinit"], str(tmp_path))
    assert results == {"anyinit": NOT_INSTALLED}


def test_request_and_result_are_json(tmp_path: Path) -> None:
    venv = fake_venv(tmp_path, """echo 'chatter'; echo '{"anyinit": [1.0, 2.0]}'""")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    moments = declared_moments(network, Init(HeNormal()))
    assert query_tools(network, moments, IMAGES, ["anyinit"], venv) == {"anyinit": [1.0, 2.0]}
    request = json.loads((tmp_path / "request.json").read_text())
    assert request["images"] == [[1.0] * 64]
    assert request["tools"] == ["anyinit"]
    assert [layer["kind"] for layer in request["layers"]] == ["linear", "relu", "linear"]


def test_a_failing_script_gives_its_last_error_line(tmp_path: Path) -> None:
    venv = fake_venv(tmp_path, "echo 'No module named anyinit' >&2; exit 1")
    network = max_pooled((1, 8, 8))
    moments = declared_moments(network, Init(HeNormal()))
    with pytest.raises(FaninError, match="No module named anyinit"):
        query_tools(network, moments, IMAGES, ["anyinit"], venv)


def test_the_script_does_not_import_this_project() -> None:
    source = Path(other_tools.__file__).read_text()
    assert "experiments" not in source
    assert "from analysis" not in source


def test_weights_with_a_mean_are_unsupported() -> None:
    network = max_pooled((1, 8, 8))
    layers = as_layers(network, declared_moments(network, Init(Uniform(a=-0.02, b=0.05))))
    with pytest.raises(other_tools.Unsupported, match="zero mean"):
        other_tools.predict_anyinit({"layers": layers, "images": IMAGES.tolist()})


@pytest.mark.slow
@pytest.mark.skipif(not (Path(VENV) / "bin/python").exists(), reason="anyinit is not installed")
def test_all_tools_agree_on_a_relu_mlp() -> None:
    """All theories are exact for this network."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    moments = declared_moments(network, Init(HeNormal()))
    results = query_tools(network, moments, IMAGES, ["anyinit", "neural_tangents"])
    for result in results.values():
        assert result == pytest.approx([2.0, 2.0], rel=1e-6)
