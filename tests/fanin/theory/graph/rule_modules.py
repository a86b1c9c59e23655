"""Modules with operations that combine few channels, or several tensors point by point."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fanin.models.layers import LocalResponseNorm, MeanOnly


class ConcatenatedGroups(nn.Module):
    """Group normalization of a concatenation, with groups that contain channels of two tensors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.conv = nn.Conv2d(width, width // 2, 3, 1, 1)
        self.norm = nn.GroupNorm(width // 4, 3 * width // 2)  # 6 channels; one group is mixed
        self.few = nn.GroupNorm(2, 3 * width // 2)
        self.next = nn.Conv2d(3 * width // 2, width, 3, 1, 1)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, 3 * self.conv(torch.tanh(x))], 1)
        x = torch.tanh(self.norm(x)) + torch.relu(self.few(x))
        return self.fc(torch.relu(self.next(x)).mean((2, 3)))


class SplitGroups(nn.Module):
    """Group normalization of which later layers use parts of a group in different ways."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.norm = nn.GroupNorm(width // 8, width)
        self.parts = (width // 2 + 2, width // 2 - 2)
        self.first = nn.Conv2d(self.parts[0], width, 3, 1, 1)
        self.second = nn.Conv2d(self.parts[1], width, 3, 2, 1)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x, y = torch.relu(self.norm(self.stem(x))).split(self.parts, dim=1)
        x = F.avg_pool2d(torch.tanh(self.first(x)), 2) + self.second(y)
        return self.fc(torch.relu(x).mean((2, 3)))


class Depthwise(nn.Module):
    """Depthwise convolutions with activations after them, in a residual branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.depthwise = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        self.pointwise = nn.Conv2d(width, width, 1)
        self.strided = nn.Conv2d(width, width, 3, 2, 1, groups=width)
        self.fc = nn.Linear(16 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.tanh(x + 2 * self.depthwise(x))
        x = x + self.pointwise(torch.tanh(3 * x))
        return self.fc(torch.sigmoid(4 * self.strided(x)).flatten(1))


class Pointwise(nn.Module):
    """Functions of several tensors: where, maximum, division, comparison, gated linear unit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.a = nn.Conv2d(width, width, 3, 1, 1)
        self.b = nn.Conv2d(width, width, 1)
        self.gate = nn.Conv2d(width, 2 * width, 1)
        self.log_scale = nn.Parameter(torch.tensor([0.5]))
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.where(x > 0, x, 0.2 * x)
        a, b = self.a(x), self.b(x)
        x = torch.maximum(a, b) + torch.where(a > b, x, -b)
        x = x / (1 + x.abs()) * self.log_scale.exp()
        x = F.glu(self.gate(torch.clamp(x, max=0.7)), dim=1)
        return self.fc(x.mean((2, 3)))


class Neighbours(nn.Module):
    """Local response normalization and `MeanOnly`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.response = LocalResponseNorm(alpha=0.3)
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.mean_only = MeanOnly()
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.response(2 * F.relu(self.stem(x)))
        x = torch.relu(self.mean_only(torch.relu(self.conv(x))))
        return self.fc(x.mean((2, 3)))
