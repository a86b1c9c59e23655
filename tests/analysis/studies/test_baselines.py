"""The other tools: how a network is described to them, and what is made of their answers."""

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


def fake_venv(folder: Path, answer: str) -> str:
    """A Python that says the same whatever it is asked, and keeps the question."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ncat > {folder}/asked\n{answer}\n")
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


@pytest.mark.parametrize("subject", CASES, ids=lambda subject: subject.title.partition(":")[0])
def test_each_of_the_five_networks_can_be_described(subject) -> None:
    channels, side = subject.source.shape[0], subject.side or subject.source.shape[1]
    network = subject.network(torch.zeros(1, channels, side, side))
    layers = as_layers(network, subject.moments(network))
    assert sum(layer["kind"] in ("linear", "conv") for layer in layers) == len(
        subject.moments(network)
    )
    json.dumps(layers)


def test_what_the_script_has_no_name_for_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU())
    with pytest.raises(FaninError, match=r"layer 0: .* no name for a Conv2d like this"):
        as_layers(network, declared_moments(network, Init(HeNormal())))


def test_tools_that_are_not_there_are_said_not_to_be(tmp_path: Path) -> None:
    network = max_pooled((1, 8, 8))
    moments = declared_moments(network, Init(HeNormal()))
    answers = query_tools(network, moments, IMAGES, ["anyinit"], str(tmp_path))
    assert answers == {"anyinit": NOT_INSTALLED}


def test_question_and_answer_are_json(tmp_path: Path) -> None:
    venv = fake_venv(tmp_path, """echo 'chatter'; echo '{"anyinit": [1.0, 2.0]}'""")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    moments = declared_moments(network, Init(HeNormal()))
    assert query_tools(network, moments, IMAGES, ["anyinit"], venv) == {"anyinit": [1.0, 2.0]}
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked["images"] == [[1.0] * 64]
    assert [layer["kind"] for layer in asked["layers"]] == ["linear", "relu", "linear"]


def test_a_script_that_fails_says_why(tmp_path: Path) -> None:
    venv = fake_venv(tmp_path, "echo 'No module named anyinit' >&2; exit 1")
    network = max_pooled((1, 8, 8))
    moments = declared_moments(network, Init(HeNormal()))
    with pytest.raises(FaninError, match="No module named anyinit"):
        query_tools(network, moments, IMAGES, ["anyinit"], venv)


def test_the_script_imports_nothing_of_ours() -> None:
    source = Path(other_tools.__file__).read_text()
    assert "experiments" not in source
    assert "from analysis" not in source


def test_weights_with_a_mean_are_refused_for_the_other_tools() -> None:
    network = max_pooled((1, 8, 8))
    layers = as_layers(network, declared_moments(network, Init(Uniform(a=-0.02, b=0.05))))
    with pytest.raises(other_tools.Unsupported, match="zero mean"):
        other_tools.predict_anyinit({"layers": layers, "images": IMAGES.tolist()})


@pytest.mark.slow
@pytest.mark.skipif(not (Path(VENV) / "bin/python").exists(), reason="anyinit is not installed")
def test_a_plain_relu_mlp_is_hes_for_everybody() -> None:
    """The one network on which all theories are exact, and agree."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    moments = declared_moments(network, Init(HeNormal()))
    answers = query_tools(network, moments, IMAGES, ["anyinit", "neural_tangents"])
    for answer in answers.values():
        assert answer == pytest.approx([2.0, 2.0], rel=1e-6)
