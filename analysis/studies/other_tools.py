"""Script that predicts second moments with anyinit and neural-tangents.

`analysis.studies.baselines.query_tools` runs it with the Python of the tools' virtual environment,
so it must not import this project. It reads a network from stdin as JSON and writes JSON to stdout:
each tool's second moments of the pre-activations, one number per weight layer, or the reason for
having none.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

Layer = dict[str, Any]
WEIGHT_LAYERS = ("linear", "conv")


class Unsupported(Exception):
    """The tool does not support this network; the message says why."""


def predict_anyinit(net: dict[str, Any]) -> list[float]:
    """Predict the pre-activation moments with anyinit, at the network's weight variances.

    For each weight layer, anyinit reports the second moment of the next weight layer's input. It
    assumes weights of standard deviation gain / sqrt(fan_in). The second moment of a pre-activation
    is fan_in Var[w] times that of the layer's input.
    """
    _zero_mean(net["layers"])
    anyinit, torch = import_module("anyinit"), import_module("torch")
    weights = [layer for layer in net["layers"] if layer["kind"] in WEIGHT_LAYERS]
    scales = [layer["fan_in"] * layer["weight_var"] for layer in weights]
    if max(scales[:-1]) > 1.001 * min(scales[:-1]):
        raise Unsupported("hidden layers with different gains not supported")
    (activation,) = {a for a in _kinds(net["layers"]) if a in ("relu", "tanh")}
    report = anyinit.initialize(
        _torch_net(net["layers"]),
        input_spec=torch.tensor(net["images"]),
        gains={activation: scales[0] ** 0.5},
    )
    input_m2 = [_mean_square(net["images"]), *(layer.predicted for layer in report.layers[:-1])]
    return [scale * m2 for scale, m2 in zip(scales, input_m2, strict=True)]


def anyinit_init(net: dict[str, Any]) -> list[float]:
    """Return the weight variances of anyinit's own init on these images."""
    anyinit, torch = import_module("anyinit"), import_module("torch")
    images = torch.tensor(net["images"])
    report = anyinit.initialize(_torch_net(net["layers"]), input_spec=images)
    return [layer.scale**2 for layer in report.layers]


def anyinit_own(net: dict[str, Any]) -> list[float]:
    """Predict the pre-activation moments with anyinit under its own init."""
    anyinit, torch = import_module("anyinit"), import_module("torch")
    images = torch.tensor(net["images"])
    report = anyinit.initialize(_torch_net(net["layers"]), input_spec=images)
    input_m2 = [_mean_square(net["images"]), *(layer.predicted for layer in report.layers[:-1])]
    return [
        layer.fan * layer.scale**2 * m2 for layer, m2 in zip(report.layers, input_m2, strict=True)
    ]


def predict_neural_tangents(net: dict[str, Any]) -> list[float]:
    """Return the diagonal of the NNGP kernel after each weight layer, mean over positions."""
    _zero_mean(net["layers"])
    if "max_pool" in _kinds(net["layers"]):
        raise Unsupported("max-pools not supported")
    import_module("jax").config.update("jax_enable_x64", True)
    stax = import_module("neural_tangents.stax")
    images = np.array(net["images"], dtype=np.float64)
    x = np.moveaxis(images, 1, -1) if images.ndim == 4 else images
    layers, moments = [], []
    for layer in net["layers"]:
        layers.append(_stax_layer(stax, layer))
        if layer["kind"] in WEIGHT_LAYERS:
            kernel = stax.serial(*layers)[2]
            moments.append(_diagonal_mean(np.asarray(kernel(x, None, "nngp"))))
    return moments


def _zero_mean(layers: list[Layer]) -> None:
    if any(layer.get("weight_mean") for layer in layers):
        raise Unsupported("weights of non-zero mean not supported")


def _kinds(layers: list[Layer]) -> set[str]:
    return {layer["kind"] for layer in layers}


def _mean_square(nested: Any) -> float:
    return float(np.square(np.array(nested, dtype=np.float64)).mean())


def _torch_net(layers: list[Layer]) -> Any:
    nn = import_module("torch.nn")
    makers: dict[str, Callable[[Layer], Any]] = {
        "linear": lambda s: nn.Linear(s["inputs"], s["outputs"]),
        "conv": lambda s: nn.Conv2d(s["inputs"], s["outputs"], s["kernel"], padding=s["padding"]),
        "relu": lambda _: nn.ReLU(),
        "tanh": lambda _: nn.Tanh(),
        "max_pool": lambda s: nn.MaxPool2d(s["kernel"], s["stride"]),
        "avg_pool": lambda s: nn.AvgPool2d(s["kernel"], s["stride"]),
        "global_avg_pool": lambda _: nn.AdaptiveAvgPool2d(1),
        "flatten": lambda _: nn.Flatten(),
    }
    return nn.Sequential(*(makers[layer["kind"]](layer) for layer in layers))


def _stax_layer(stax: Any, layer: Layer) -> Any:
    kind = layer["kind"]
    if kind in WEIGHT_LAYERS:
        std = {
            "W_std": (layer["fan_in"] * layer["weight_var"]) ** 0.5,
            "b_std": layer["bias_var"] ** 0.5,
        }
        if kind == "linear":
            return stax.Dense(layer["outputs"], **std)
        side = layer["kernel"]
        padding = {0: "VALID", side // 2: "SAME"}[layer["padding"]]
        return stax.Conv(layer["outputs"], (side, side), padding=padding, **std)
    if kind == "tanh":
        return stax.ElementwiseNumerical(import_module("jax.numpy").tanh, deg=25)
    if kind == "avg_pool":
        side, stride = layer["kernel"], layer["stride"]
        return stax.AvgPool((side, side), strides=(stride, stride))
    simple = {
        "relu": stax.Relu,
        "flatten": stax.Flatten,
        # The description has a separate flatten layer after it.
        "global_avg_pool": stax.GlobalAvgPool,
    }
    return simple[kind]()


def _diagonal_mean(nngp: Any) -> float:
    """Return the mean of the diagonal of an NNGP kernel.

    Axes are [image, image], or [image, image, row, row, column, column] after a convolution.
    """
    by_image = np.einsum("aa...->a...", nngp)
    return float((by_image if by_image.ndim == 1 else np.einsum("ahhww->ahw", by_image)).mean())


def main() -> None:
    """Read a request from stdin and write the results to stdout."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    warnings.simplefilter("ignore")
    net = json.load(sys.stdin)
    results: dict[str, Any] = {}
    for name, predict in {
        "anyinit": predict_anyinit,
        "anyinit_init": anyinit_init,
        "anyinit_own": anyinit_own,
        "neural_tangents": predict_neural_tangents,
    }.items():
        if name not in net["tools"]:
            continue
        try:
            results[name] = predict(net)
        except Unsupported as reason:
            results[name] = str(reason)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
