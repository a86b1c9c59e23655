"""What every data source gives: two splits of images as tensors, and what their values mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Num
from torch import Tensor

from fanin.errors import DataError


@dataclass(frozen=True)
class Split:
    """Images with their targets.

    Parameters
    ----------
    x
        Images, channel first: uint8 in 0..255 for pictures, float32 for noise and for pictures
        that `data.corrupt` touched.
    y
        The class of each image (int64), or its real target (float32).

    Raises
    ------
    DataError
        There are not as many targets as images.
    """

    x: Num[Tensor, "image channel height width"]
    y: Num[Tensor, " image"]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise DataError(f"{len(self.x)} images, but {len(self.y)} labels")

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Dataset:
    """A training and a test split; `n_classes` is None for regression.

    `full_scale` is the largest value an image can take (255 for pictures), 1 for noise.
    """

    train: Split
    test: Split
    n_classes: int | None
    full_scale: float


@runtime_checkable
class Source(Protocol):
    """Where images come from. Its attributes are known before anything is read or drawn."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""

    @property
    def n_classes(self) -> int | None:
        """Number of classes, None for real targets."""

    @property
    def train_size(self) -> int:
        """Number of training images."""

    @property
    def test_size(self) -> int:
        """Number of test images."""

    def prepare(self, root: Path, download: bool) -> None:
        """Make sure that the files are there and whole; nothing to do where images are drawn."""

    def load(self, root: Path, download: bool, seed: int) -> Dataset:
        """Read the files under `root` (fetching them if `download`), or draw from `seed`."""
