"""Small networks and images for certificates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

COARSE = ("he", "mean_field")


def conv_net(channels: int = 8) -> nn.Sequential:
    """Zero padding, an overlapping maximum, a nested sequence; 12 x 12 images."""
    features = nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
        *(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()),
    )
    return nn.Sequential(features, nn.Flatten(), nn.Linear(25 * channels, 10))


def deep(activation: nn.Module, depth: int = 10, width: int = 64) -> nn.Sequential:
    """Linear layers of one width on 8 x 8 images."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, width)]
    for _ in range(depth - 2):
        layers += [activation, nn.Linear(width, width)]
    return nn.Sequential(*layers, activation, nn.Linear(width, 10))


def images(n: int = 2, side: int = 12) -> Tensor:
    """Smooth images that differ, with some zero pixels."""
    place = torch.linspace(0, 3, side, dtype=torch.float64)
    phase = torch.arange(n, dtype=torch.float64)[:, None, None, None]
    x = torch.sin(place[:, None] + phase) * torch.cos(2 * place[None, :] - phase)
    return x.clamp(min=0)
