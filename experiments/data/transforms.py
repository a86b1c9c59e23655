"""Transforms of images before training: choose, resize, spoil."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Int64, Num
from pydantic import ConfigDict, Field
from torch import Tensor
from torch.nn.functional import interpolate

CHUNK = 4096  # images resized at once, so that all of CIFAR is never in memory as floats
OUTLIER_FACTOR = 100.0
MISSING_SHARE = 0.25


@dataclass(frozen=True)
class Corrupt:
    """Corruption of a share of the training images.

    Parameters
    ----------
    share
        The share of the training images, 0 to 1; exactly `round(share * n)` are spoilt.
    kind
        `outlier`: all pixels of the image times 100. `missing`: a random quarter of its
        positions is NaN, in all channels.
    """

    # A misspelt key in the mapping must not pass unnoticed.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    kind: Literal["outlier", "missing"] = "outlier"

    def count(self, n: int) -> int:
        """Return the number of images, of `n`, that are spoilt."""
        return round(self.share * n)


CLEAN = Corrupt()  # nothing spoilt


def choose(y: Num[Tensor, " image"], n: int, rng: torch.Generator) -> Int64[Tensor, " chosen"]:
    """Choose `n` indices at random, in ascending order.

    Classes (integer `y`) keep their shares: each gets its proportional count, rounded down or
    up so that the total is `n` (largest remainders; ties are broken at random). Real targets:
    plain sampling without replacement.

    Raises
    ------
    ValueError
        There are fewer than `n`.

    Examples
    --------
    >>> y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> y[choose(y, 4, torch.Generator().manual_seed(0))]
    tensor([0, 0, 1, 1])
    """
    if n > len(y):
        raise ValueError(f"asked for {n} images, but there are {len(y)}")
    if y.is_floating_point():
        return torch.randperm(len(y), generator=rng)[:n].sort().values
    classes, counts = y.unique(return_counts=True)
    chosen = []
    for label, wanted in zip(classes, _apportion(counts, n, rng), strict=True):
        members = (y == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=rng)[:wanted]])
    return torch.cat(chosen).sort().values


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


def spoil(
    x: Num[Tensor, "image channel height width"], corrupt: Corrupt, rng: torch.Generator
) -> Num[Tensor, "image channel height width"]:
    """Return the images with a share of them spoilt, as float32; share 0: unchanged.

    >>> x = torch.ones(4, 1, 2, 2, dtype=torch.uint8)
    >>> spoil(x, Corrupt(0.5), torch.Generator()).amax((1, 2, 3)).sort().values
    tensor([  1.,   1., 100., 100.])
    """
    if corrupt.share == 0:
        return x
    images = torch.randperm(len(x), generator=rng)[: corrupt.count(len(x))]
    spoilt = x.to(torch.float32, copy=True)
    if corrupt.kind == "outlier":
        spoilt[images] *= OUTLIER_FACTOR
    else:
        _, _, height, width = x.shape
        rank = torch.rand(len(images), height * width, generator=rng).argsort(1)
        missing = rank < round(MISSING_SHARE * height * width)
        mask = missing.reshape(-1, 1, height, width)
        spoilt[images] = spoilt[images].masked_fill(mask, torch.nan)
    return spoilt


def _apportion(counts: Tensor, n: int, rng: torch.Generator) -> list[int]:
    # In integers: 7/10 of 10 in floating point could round down to 6.
    shares = counts * n
    wanted = shares // counts.sum()
    remainders = shares % counts.sum()
    shuffled = torch.randperm(len(counts), generator=rng)
    largest = shuffled[remainders[shuffled].argsort(descending=True, stable=True)]
    wanted[largest[: n - int(wanted.sum())]] += 1
    return wanted.tolist()


def _resize(x: Tensor, side: int) -> Tensor:
    resized = interpolate(x.float(), size=(side, side), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(x.dtype) if x.dtype == torch.uint8 else resized
