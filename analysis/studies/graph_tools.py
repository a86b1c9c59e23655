"""Networks with branches, for theory `field`, neural-tangents and anyinit.

`analysis.studies.compare_graph_tools` runs this file with the Python of the tools' virtual
environment, so it must not import this project. It reads a network's name, width and images from
stdin as JSON and writes JSON to stdout: the moments that neural-tangents and anyinit predict, or
the reason for having none.
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
import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = 2**0.5  # of all weight layers: He's init, also at the output


class WideBlock(nn.Module):
    """Residual block of neural-tangents' WideResnet: ReLU before each convolution."""

    def __init__(self, n_in: int, width: int, stride: int, projected: bool) -> None:
        super().__init__()
        self.conv1 = same_conv(n_in, width, stride)
        self.conv2 = same_conv(width, width, 1)
        self.shortcut = same_conv(n_in, width, stride) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(F.relu(x))))
        return y + (x if self.shortcut is None else self.shortcut(x))


def same_conv(n_in: int, width: int, stride: int = 1) -> nn.Module:
    """Return a 3x3 convolution with jax's padding `SAME`: for stride 2 only right and below."""
    if stride == 1:
        return nn.Conv2d(n_in, width, 3, padding=1, bias=False)
    conv = nn.Conv2d(n_in, width, 3, stride, bias=False)
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), conv)


class WideResNet(nn.Module):
    """WideResnet of neural-tangents' documentation without normalization, two blocks per group."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = same_conv(3, width)
        blocks = []
        for group in range(3):
            stride = 1 if group == 0 else 2
            blocks += [WideBlock(width, width, stride, True), WideBlock(width, width, 1, False)]
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Linear(width, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(self.stem(x)).mean((2, 3)))


class ConcatNet(nn.Module):
    """Three branches of equal width, concatenated and merged by a convolution, twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = same_conv(3, width)
        self.branches = nn.ModuleList(ConcatBlock(width) for _ in range(2))
        self.out = nn.Linear(width, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = branch(x)
        return self.out(F.relu(x).mean((2, 3)))


class ConcatBlock(nn.Module):
    """A convolution, two of them, one of the average-pooled map; and one of all three."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = same_conv(width, width)
        self.first, self.second = same_conv(width, width), same_conv(width, width)
        self.pooled = same_conv(width, width)
        self.merge = same_conv(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        pooled = F.avg_pool2d(x, 3, 1, padding=1)
        branches = [self.one(x), self.second(F.relu(self.first(x))), self.pooled(pooled)]
        return self.merge(torch.cat(branches, 1))


class LayerNormMlp(nn.Module):
    """Linear layers with layer normalization and ReLU; two of them in a residual branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(768, width, bias=False)
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-12) for _ in range(4))
        self.out = nn.Linear(width, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(F.relu(norm(x)))
        return self.out(x)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "WideResNet without norm": WideResNet,
    "concatenation": ConcatNet,
    "residual MLP, layer norm": LayerNormMlp,
}


def _conv(stax: Any, width: int, stride: int = 1) -> Any:
    return stax.Conv(width, (3, 3), (stride, stride), padding="SAME", W_std=GAIN, b_std=None)


def _residual(stax: Any, branch: Any, shortcut: Any) -> Any:
    return stax.serial(stax.FanOut(2), stax.parallel(branch, shortcut), stax.FanInSum())


def _wide_resnet(stax: Any, width: int) -> tuple[dict[str, Any], Any]:
    stages = {"stem": _conv(stax, width)}
    for group in range(3):
        for number in range(2):
            stride = 2 if group and number == 0 else 1
            branch = stax.serial(
                *(stax.Relu(), _conv(stax, width, stride), stax.Relu(), _conv(stax, width))
            )
            shortcut = _conv(stax, width, stride) if number == 0 else stax.Identity()
            block = _residual(stax, branch, shortcut)
            stages[f"blocks.{2 * group + number}.add"] = block
    return stages, stax.serial(stax.GlobalAvgPool(), _dense(stax, 10))


def _concat_net(stax: Any, width: int) -> tuple[dict[str, Any], Any]:
    stages = {"stem": _conv(stax, width)}
    for number in range(2):
        pool = stax.AvgPool((3, 3), (1, 1), padding="SAME", normalize_edges=False)
        branches = stax.parallel(
            _conv(stax, width),
            stax.serial(_conv(stax, width), stax.Relu(), _conv(stax, width)),
            stax.serial(pool, _conv(stax, width)),
        )
        block = stax.serial(
            *(stax.Relu(), stax.FanOut(3), branches, stax.FanInConcat(-1), _conv(stax, width))
        )
        stages[f"branches.{number}.merge"] = block
    return stages, stax.serial(stax.Relu(), stax.GlobalAvgPool(), _dense(stax, 10))


def _layer_norm_mlp(stax: Any, width: int) -> tuple[dict[str, Any], Any]:
    stages = {"first": stax.serial(stax.Flatten(), _dense(stax, width))}
    for number in range(4):
        branch = stax.serial(stax.LayerNorm(eps=1e-12), stax.Relu(), _dense(stax, width))
        name = "add" if number == 0 else f"add_{number + 1}"
        stages[name] = _residual(stax, branch, stax.Identity())
    return stages, _dense(stax, 10)


def _dense(stax: Any, width: int) -> Any:
    return stax.Dense(width, W_std=GAIN, b_std=None)


STAX = {
    "WideResNet without norm": _wide_resnet,
    "concatenation": _concat_net,
    "residual MLP, layer norm": _layer_norm_mlp,
}


def predict_neural_tangents(name: str, width: int, images: np.ndarray) -> dict[str, Any]:
    """Return E[y^2] of each stage, mean over positions and images, and the mean of the NTK."""
    import_module("jax").config.update("jax_enable_x64", True)
    stax = import_module("neural_tangents.stax")
    stages, readout = STAX[name](stax, width)
    x = np.moveaxis(images, 1, -1)
    moments, layers = {}, []
    for stage, layer in stages.items():
        layers.append(layer)
        kernel = stax.serial(*layers)[2]
        moments[stage] = _diagonal_mean(np.asarray(kernel(x, None, "nngp")))
    kernel = stax.serial(*layers, readout)[2](x, None, ("nngp", "ntk"))
    moments["out"] = _diagonal_mean(np.asarray(kernel.nngp))
    return {"moments": moments, "ntk": _diagonal_mean(np.asarray(kernel.ntk))}


def _diagonal_mean(kernel: np.ndarray) -> float:
    """Return the mean diagonal, [image, image] or [image, image, row, row, column, column]."""
    by_image = np.einsum("aa...->a...", kernel)
    return float((by_image if by_image.ndim == 1 else np.einsum("ahhww->ahw", by_image)).mean())


def predict_anyinit(name: str, width: int, images: np.ndarray) -> dict[str, Any]:
    """Return what anyinit reports for each weight layer, at the gain of the network."""
    anyinit = import_module("anyinit")
    network = NETWORKS[name](width)
    x = torch.tensor(images, dtype=torch.float32)
    report = anyinit.initialize(network, input_spec=x, gains={"relu": GAIN})
    layers = [
        {key: getattr(layer, key, None) for key in ("name", "scale", "fan", "predicted")}
        for layer in report.layers
    ]
    return {"layers": [{k: _plain(v) for k, v in layer.items()} for layer in layers]}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else str(value)


def main() -> None:
    """Read a request from stdin and write the results to stdout."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    warnings.simplefilter("ignore")
    request = json.load(sys.stdin)
    images = np.array(request["images"], dtype=np.float64)
    results: dict[str, Any] = {}
    for tool, predict in (
        ("neural_tangents", predict_neural_tangents),
        ("anyinit", predict_anyinit),
    ):
        try:
            results[tool] = predict(request["name"], request["width"], images)
        except Exception as error:  # tools raise various exceptions for what they do not support
            results[tool] = {"error": f"{type(error).__name__}: {error}"}
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
