"""Images of another side length."""

from __future__ import annotations

import torch
from jaxtyping import Num
from torch import Tensor
from torch.nn.functional import interpolate

CHUNK = 4096
"""Images resized at once, so that all of CIFAR is never in memory as floats."""


def resize(
    x: Num[Tensor, "image channel height width"], side: int
) -> Num[Tensor, "image channel side side"]:
    """Resize bilinearly, with antialiasing when shrinking; uint8 stays uint8, rounded.

    >>> resize(torch.full((1, 1, 28, 28), 7, dtype=torch.uint8), 14).unique()
    tensor([7], dtype=torch.uint8)
    """
    if x.shape[-2:] == (side, side):
        return x
    return torch.cat([_resize(chunk, side) for chunk in x.split(CHUNK)])


def _resize(x: Tensor, side: int) -> Tensor:
    resized = interpolate(x.float(), size=(side, side), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(x.dtype) if x.dtype == torch.uint8 else resized
