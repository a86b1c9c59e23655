"""Bad data on purpose: a share of the training images with outliers or missing values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Num
from pydantic import ConfigDict, Field
from torch import Tensor

OUTLIER_FACTOR = 100.0
MISSING_SHARE = 0.25


@dataclass(frozen=True)
class Corrupt:
    """Which part of the training images is spoilt, and how.

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
        """How many of `n` images are spoilt."""
        return round(self.share * n)


CLEAN = Corrupt()
"""Nothing spoilt."""


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
