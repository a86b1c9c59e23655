"""Transforms of images before training: subset, resize, corrupt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Int64, Num
from pydantic import ConfigDict, Field
from torch import Tensor
from torch.nn.functional import interpolate

CHUNK = 4096  # images resized at once; limits the memory for float copies
OUTLIER_FACTOR = 100.0
MISSING_SHARE = 0.25


@dataclass(frozen=True)
class Corrupt:
    """Corruption of a fraction of the training images.

    Parameters
    ----------
    share
        Fraction of the training images, 0 to 1; exactly `round(share * n)` are corrupted.
    kind
        `outlier` multiplies all pixels of an image by 100. `missing` sets a random quarter of its
        positions to NaN, in all channels.
    """

    # Raises an error for a misspelt key.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    kind: Literal["outlier", "missing"] = "outlier"

    def count(self, n: int) -> int:
        """Return the number of corrupted images among `n`."""
        return round(self.share * n)


NO_CORRUPTION = Corrupt()


def choose(y: Num[Tensor, " image"], n: int, rng: torch.Generator) -> Int64[Tensor, " chosen"]:
    """Sample `n` indices without replacement, in ascending order.

    The sample is stratified by class (integer `y`): each class gets its proportional count,
    rounded down or up so that the total is `n` (largest remainders; ties are broken at random).

    Raises
    ------
    ValueError
        There are fewer than `n` images.

    Examples
    --------
    >>> y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> y[choose(y, 4, torch.Generator().manual_seed(0))]
    tensor([0, 0, 1, 1])
    """
    if n > len(y):
        raise ValueError(f"{n} images requested, but there are only {len(y)}")
    if y.is_floating_point():
        return torch.randperm(len(y), generator=rng)[:n].sort().values
    classes, counts = y.unique(return_counts=True)
    chosen = []
    for label, count in zip(classes, _apportion(counts, n, rng), strict=True):
        members = (y == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=rng)[:count]])
    return torch.cat(chosen).sort().values


def resize(
    x: Num[Tensor, "image channel height width"], side: int
) -> Num[Tensor, "image channel side side"]:
    """Resize images bilinearly, with antialiasing; uint8 images are rounded and stay uint8.

    >>> resize(torch.full((1, 1, 28, 28), 7, dtype=torch.uint8), 14).unique()
    tensor([7], dtype=torch.uint8)
    """
    if x.shape[-2:] == (side, side):
        return x
    return torch.cat([_resize(chunk, side) for chunk in x.split(CHUNK)])


def corrupt_images(
    x: Num[Tensor, "image channel height width"], corrupt: Corrupt, rng: torch.Generator
) -> Num[Tensor, "image channel height width"]:
    """Corrupt a fraction of the images; the result is float32 (unchanged if `share` is 0).

    >>> x = torch.ones(4, 1, 2, 2, dtype=torch.uint8)
    >>> corrupt_images(x, Corrupt(0.5), torch.Generator()).amax((1, 2, 3)).sort().values
    tensor([  1.,   1., 100., 100.])
    """
    if corrupt.share == 0:
        return x
    images = torch.randperm(len(x), generator=rng)[: corrupt.count(len(x))]
    corrupted = x.to(torch.float32, copy=True)
    if corrupt.kind == "outlier":
        corrupted[images] *= OUTLIER_FACTOR
    else:
        _, _, height, width = x.shape
        rank = torch.rand(len(images), height * width, generator=rng).argsort(1)
        missing = rank < round(MISSING_SHARE * height * width)
        mask = missing.reshape(-1, 1, height, width)
        corrupted[images] = corrupted[images].masked_fill(mask, torch.nan)
    return corrupted


def _apportion(counts: Tensor, n: int, rng: torch.Generator) -> list[int]:
    """Return the number of images to choose from each class; the numbers sum to `n`."""
    # Integer arithmetic: in floating point 7/10 of 10 may round down to 6.
    products = counts * n
    quotas = products // counts.sum()
    remainders = products % counts.sum()
    shuffled = torch.randperm(len(counts), generator=rng)
    largest = shuffled[remainders[shuffled].argsort(descending=True, stable=True)]
    quotas[largest[: n - int(quotas.sum())]] += 1
    return quotas.tolist()


def _resize(x: Tensor, side: int) -> Tensor:
    resized = interpolate(x.float(), size=(side, side), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(x.dtype) if x.dtype == torch.uint8 else resized
