"""Modules with branches, as users write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.studies.graph_modules import make_norm


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, with the activation after the sum (v1) or before (v2)."""

    def __init__(
        self, inputs: int, outputs: int, norm: str, version: int, shortcut: str, stride: int = 1
    ) -> None:
        super().__init__()
        self.version, self.stride = version, stride
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=norm == "none")
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=norm == "none")
        self.norm1 = make_norm(norm, outputs if version == 1 else inputs)
        self.norm2 = make_norm(norm, outputs)
        changes = inputs != outputs
        self.project = (
            nn.Conv2d(inputs, outputs, 1, stride) if changes and shortcut == "B" else None
        )
        self.pad = (outputs - inputs) // 2 if shortcut == "A" else 0

    def forward(self, x: Tensor) -> Tensor:
        if self.version == 1:
            out = F.relu(self.norm1(self.conv1(x)))
            out = self.norm2(self.conv2(out))
            out += self._shortcut(x)
            return F.relu(out)
        h = self.norm1(x).relu()
        shortcut = self._shortcut(x if self.project is None else h)
        return shortcut + self.conv2(torch.relu(self.norm2(self.conv1(h))))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.project is not None:
            return self.project(x)
        if self.pad or self.stride > 1:
            s = self.stride
            return F.pad(x[:, :, ::s, ::s], (0, 0, 0, 0, self.pad, self.pad))
        return x


class ResNet(nn.Module):
    """Three residual blocks, of which the second halves the map."""

    def __init__(
        self, norm: str = "none", version: int = 1, shortcut: str = "B", width: int = 64
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.blocks = nn.Sequential(
            ResidualBlock(width, width, norm, version, shortcut),
            ResidualBlock(width, 2 * width, norm, version, shortcut, stride=2),
            ResidualBlock(2 * width, 2 * width, norm, version, shortcut),
        )
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.fc(F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1))


class DenseNet(nn.Module):
    """Concatenations, a 1x1 convolution with average pooling, a grouped convolution."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1)
        self.conv2 = nn.Conv2d(2 * width, width, 3, 1, 1)
        self.transition = nn.Conv2d(3 * width, width, 1)
        self.grouped = nn.Conv2d(width, width, 3, 1, 1, groups=4)
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(x))], dim=1)
        x = torch.cat([x, self.conv2(F.relu(x))], dim=1)
        x = F.avg_pool2d(self.transition(F.relu(x)), 2)
        x = F.max_pool2d(torch.relu(self.grouped(x)), 2)
        return self.fc(torch.flatten(x, 1))


class SqueezeExcite(nn.Module):
    """A gate per channel, computed from the mean over positions."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.squeeze = nn.Linear(width, width)
        self.excite = nn.Linear(width, width)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        h = torch.tanh(self.conv(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(h.mean((2, 3))))))
        x = torch.relu(x + h * gate[:, :, None, None])
        return self.fc(x.mean((2, 3)))


class ConvNeXt(nn.Module):
    """Depthwise convolution, layer norm and linear layers on channels-last maps, layer scale."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 2, 2)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.reduce = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.5))
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        h = self.depthwise(x).permute(0, 2, 3, 1)
        h = self.reduce(F.gelu(self.expand(self.norm(h)))).permute(0, 3, 1, 2)
        return self.fc((x + self.scale * h).mean([-2, -1]))


class ResidualMlp(nn.Module):
    """Pre-norm residual blocks of linear layers."""

    def __init__(self, norm: str = "layer", width: int = 256, depth: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(64, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        norms = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
        self.norms = nn.ModuleList(norms[norm](width) for _ in range(depth))
        self.last = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(torch.tanh(norm(x)))
        return self.last(F.relu(x))


class Swish(nn.Module):
    """A product of a tensor with a function of itself, channels in two halves, and a scaled sum."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2 * width, 3, 1, 1)
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.fc = nn.Linear(2 * width * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, dim=1)
        b = self.conv(b * torch.sigmoid(b))
        x = torch.cat([2 * a - 0.5 * b, b], 1)
        return self.fc(F.avg_pool2d(F.relu(x), 2).reshape(x.shape[0], -1))
