"""Small networks and images for certificate tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FAST_THEORIES = ("he", "mean_field")


def conv_net(channels: int = 8) -> nn.Sequential:
    """Return a nested CNN with zero padding and overlapping max pooling, for 12 x 12 images."""
    features = nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
        *(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()),
    )
    return nn.Sequential(features, nn.Flatten(), nn.Linear(25 * channels, 10))


def mlp(activation: nn.Module, depth: int = 10, width: int = 64) -> nn.Sequential:
    """Return linear layers of equal width, for 8 x 8 images."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, width)]
    for _ in range(depth - 2):
        layers += [activation, nn.Linear(width, width)]
    return nn.Sequential(*layers, activation, nn.Linear(width, 10))


def images(n: int = 2, side: int = 12) -> Tensor:
    """Return different smooth images with some zero pixels."""
    t = torch.linspace(0, 3, side, dtype=torch.float64)
    phase = torch.arange(n, dtype=torch.float64)[:, None, None, None]
    x = torch.sin(t[:, None] + phase) * torch.cos(2 * t[None, :] - phase)
    return x.clamp(min=0)
