"""Ask anyinit and neural-tangents, which live in a virtual environment of their own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from fanin.errors import FaninError
from fanin.inits import WeightShape
from fanin.theory.moments import LayerMoments, ScalarMoments, scalar_moments

SCRIPT = Path(__file__).with_name("other_tools.py")
VENV = "/tmp/compare-venv"
REQUIREMENTS = (
    "anyinit==0.4.0",
    "neural-tangents==0.6.5",
    "jax==0.4.30",
    "jaxlib==0.4.30",
    "torch",
)
NOT_INSTALLED = "not installed"

ToolResult = list[float] | str
"""A number per weight layer, or why there is none."""


def how_to_install(venv: str) -> str:
    """Return the command that installs the other tools."""
    return (
        "anyinit and neural-tangents are compared where they are installed, in a virtual "
        f"environment of their own:\n  python3 -m venv {venv}\n"
        f"  {venv}/bin/pip install {' '.join(REQUIREMENTS)}"
    )


def query_tools(
    network: nn.Sequential,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel height width"],
    tools: Sequence[str],
    venv: str = VENV,
) -> dict[str, ToolResult]:
    """Each tool's second moments of the pre-activations, by weight layer.

    Parameters
    ----------
    network
        A plain sequence of modules that `other_tools` knows.
    moments
        Of its weights.
    images
        What it is shown; moments are means over them.
    tools
        `anyinit`, `neural_tangents`; `anyinit_init` gives the variances that anyinit would draw
        the weights with, `anyinit_own` the moments it predicts for those.
    venv
        Where the tools are installed.

    Raises
    ------
    FaninError
        A module that the other tools' script has no name for, or the script failed.
    """
    python = Path(venv) / "bin" / "python"
    if not python.exists():
        return dict.fromkeys(tools, NOT_INSTALLED)
    described = as_layers(network, moments)
    fed = images.flatten(1) if described[0]["kind"] == "linear" else images
    request = {"layers": described, "images": fed.tolist(), "query_tools": list(tools)}
    done = subprocess.run(
        [str(python), str(SCRIPT)], input=json.dumps(request), capture_output=True, text=True
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise FaninError(f"{SCRIPT.name}: {' '.join(last)}")
    answers: dict[str, ToolResult] = json.loads(done.stdout.splitlines()[-1])
    return answers


def as_layers(network: nn.Sequential, moments: Mapping[str, LayerMoments]) -> list[dict[str, Any]]:
    """The network as plain data; a flattening before the first weight layer is left out.

    Examples
    --------
    >>> from fanin.inits import HeNormal, Init
    >>> from fanin.theory.moments import declared_moments
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.ReLU())
    >>> [d["kind"] for d in as_layers(net, declared_moments(net, Init(HeNormal())))]
    ['linear', 'relu']
    """
    scalars = scalar_moments(moments, moments)
    described = [
        _described(name, module, scalars.get(name)) for name, module in network.named_children()
    ]
    return described[1:] if described[0]["kind"] == "flatten" else described


def _described(name: str, module: nn.Module, scalars: ScalarMoments | None) -> dict[str, Any]:
    match module:
        case nn.Linear():
            shape = {"inputs": module.in_features, "outputs": module.out_features}
            return {"kind": "linear", **shape, **_weights(module, scalars)}
        case nn.Conv2d(stride=(1, 1), dilation=(1, 1), groups=1, padding_mode="zeros"):
            shape = {"inputs": module.in_channels, "outputs": module.out_channels}
            window = {"kernel": module.kernel_size[0], "padding": module.padding[0]}
            return {"kind": "conv", **shape, **window, **_weights(module, scalars)}
        case nn.MaxPool2d(kernel_size=side, stride=stride):
            return {"kind": "max_pool", "kernel": side, "stride": stride}
        case nn.AvgPool2d(kernel_size=side, stride=stride):
            return {"kind": "avg_pool", "kernel": side, "stride": stride}
        case nn.AdaptiveAvgPool2d(output_size=1):
            return {"kind": "global_avg_pool"}
        case nn.Flatten() | nn.ReLU() | nn.Tanh():
            return {"kind": type(module).__name__.lower()}
    kind = type(module).__name__
    raise FaninError(f"layer {name}: {SCRIPT.name} has no name for a {kind} like this")


def _weights(module: nn.Linear | nn.Conv2d, scalars: ScalarMoments | None) -> dict[str, Any]:
    if scalars is None:
        raise FaninError("a weight layer without moments")
    return {
        "fan_in": WeightShape.of(module).fan_in,
        "weight_mean": scalars.weight_mean,
        "weight_var": scalars.weight_var,
        "bias_var": scalars.bias_var + scalars.bias_mean**2,
    }
