"""Predictions of anyinit and neural-tangents, computed in their own virtual environment."""

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
"""One number per weight layer, or the reason for having none."""


def install_hint(venv: str) -> str:
    """Return a message with the commands that install anyinit and neural-tangents."""
    return (
        f"anyinit and neural-tangents are not installed in {venv}, so the tables lack them. To "
        f"install them:\n  python3 -m venv {venv}\n"
        f"  {venv}/bin/pip install {' '.join(REQUIREMENTS)}"
    )


def query_tools(
    network: nn.Sequential,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel height width"],
    tools: Sequence[str],
    venv: str = VENV,
) -> dict[str, ToolResult]:
    """Return each tool's second moments of the pre-activations by weight layer.

    Parameters
    ----------
    network
        A sequence of modules that `other_tools` supports.
    moments
        Weight moments by layer.
    images
        Input images; moments are means over them.
    tools
        `anyinit`, `neural_tangents`, `anyinit_init` (weight variances of anyinit's own init) or
        `anyinit_own` (moments that anyinit predicts for its own init).
    venv
        Virtual environment of the tools.

    Raises
    ------
    FaninError
        `other_tools` does not support a module, or the script failed.
    """
    python = Path(venv) / "bin" / "python"
    if not python.exists():
        return dict.fromkeys(tools, NOT_INSTALLED)
    described = as_layers(network, moments)
    inputs = images.flatten(1) if described[0]["kind"] == "linear" else images
    request = {"layers": described, "images": inputs.tolist(), "tools": list(tools)}
    process = subprocess.run(
        [str(python), str(SCRIPT)], input=json.dumps(request), capture_output=True, text=True
    )
    if process.returncode:
        last_line = process.stderr.strip().splitlines()[-1:]
        raise FaninError(f"{SCRIPT.name} failed: {' '.join(last_line)}")
    tool_results: dict[str, ToolResult] = json.loads(process.stdout.splitlines()[-1])
    return tool_results


def as_layers(network: nn.Sequential, moments: Mapping[str, LayerMoments]) -> list[dict[str, Any]]:
    """Describe a network as plain data, without a flattening before the first weight layer.

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
    raise FaninError(f"layer {name}: {SCRIPT.name} does not support this {kind}")


def _weights(module: nn.Linear | nn.Conv2d, scalars: ScalarMoments | None) -> dict[str, Any]:
    if scalars is None:
        raise FaninError("a weight layer has no declared moments")
    return {
        "fan_in": WeightShape.of(module).fan_in,
        "weight_mean": scalars.weight_mean,
        "weight_var": scalars.weight_var,
        "bias_var": scalars.bias_var + scalars.bias_mean**2,
    }
