"""Residual networks as users write them, and real images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from analysis.studies.graph_modules import make_norm


def digits(count: int = 2) -> Tensor:
    """Return standardized images of handwritten digits, [image, 1, 8, 8]."""
    x = torch.tensor(load_digits().images[:count, None])
    return (x - x.mean()) / x.std()


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, as in torchvision."""

    def __init__(self, inputs: int, outputs: int, norm: str = "none", stride: int = 1) -> None:
        super().__init__()
        has_bias = norm == "none"
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=has_bias)
        self.norm1 = make_norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=has_bias)
        self.norm2 = make_norm(norm, outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), make_norm(norm, outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = torch.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += identity
        return F.relu(out)


class ResNet(nn.Module):
    """Stem, two residual blocks (the second one halves the map), and a linear layer."""

    def __init__(self, width: int = 16, norm: str = "none") -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.layer1 = BasicBlock(width, width, norm)
        self.layer2 = BasicBlock(width, 2 * width, norm, stride=2)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(torch.relu(self.stem(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class ResidualMlp(nn.Module):
    """Residual blocks x + W relu(x) of linear layers."""

    def __init__(self, depth: int = 3, width: int = 64, scale: float = 1.0) -> None:
        super().__init__()
        self.first = nn.Linear(64, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, 10)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for layer in self.layers:
            x = x + self.scale * layer(torch.relu(x))
        return self.last(torch.relu(x))
