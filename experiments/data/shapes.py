"""Circles and crosses, rendered from a seed: the simplest pictures with two classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from experiments.data.dataset import Dataset, Split
from fanin.seeds import generator

SIDE = 32
STROKE = 1.5
"""Half the width of a line, in pixels."""


@dataclass(frozen=True)
class Shapes:
    """Crosses (label 0) and circles (label 1), 32x32 RGB, as many of each.

    Place, size, colours and the cross's angle are random; the colours of shape and ground
    differ by at least 64 of 255 in every channel.

    Parameters
    ----------
    train_size, test_size
        How many to render.
    """

    train_size: PositiveInt = 10_000
    test_size: PositiveInt = 2_000

    shape = (3, SIDE, SIDE)
    n_classes = 2

    def prepare(self, root: Path, download: bool) -> None:
        """Nothing to do: there are no files."""

    def load(self, root: Path, download: bool, seed: int) -> Dataset:
        """Render the images from `seed`; there are no files."""
        train = _split(self.train_size, generator("shapes train", seed))
        test = _split(self.test_size, generator("shapes test", seed))
        return Dataset(train, test, self.n_classes, full_scale=255.0)


def _split(n: int, rng: torch.Generator) -> Split:
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=rng)

    y = torch.randperm(n, generator=rng) % 2
    radius = uniform(5, 11, n, 1, 1)
    margin = radius + STROKE
    centre = margin + (SIDE - 1 - 2 * margin) * uniform(0, 1, 2, n, 1, 1)
    angle = uniform(0, math.pi / 2, n, 1, 1)
    pixels = torch.arange(float(SIDE))
    row, column = pixels[:, None] - centre[0], pixels - centre[1]
    distance = torch.where(
        y[:, None, None] == 1,
        (torch.hypot(row, column) - radius).abs(),
        _distance_to_cross(row, column, radius, angle),
    )
    # One pixel of soft edge: the share of the pixel that the line covers, to first order.
    cover = (STROKE + 0.5 - distance).clamp(0, 1)[:, None]
    ground = uniform(0, 256, n, 3, 1, 1)
    ink = (ground + uniform(64, 192, n, 3, 1, 1)) % 256
    return Split(torch.lerp(ground, ink, cover).to(torch.uint8), y)


def _distance_to_cross(
    row: Float[Tensor, "image height 1"],
    column: Float[Tensor, "image 1 width"],
    arm: Float[Tensor, "image 1 1"],
    angle: Float[Tensor, "image 1 1"],
) -> Float[Tensor, "image height width"]:
    along = (angle.cos() * column + angle.sin() * row).abs()
    across = (angle.cos() * row - angle.sin() * column).abs()
    to_one_bar = torch.hypot((along - arm).clamp(min=0), across)
    to_the_other = torch.hypot((across - arm).clamp(min=0), along)
    return torch.minimum(to_one_bar, to_the_other)
