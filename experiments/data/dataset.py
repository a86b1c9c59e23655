"""Images as tensors: two splits, the source that they come from, and the `data` group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import torch
from jaxtyping import Num
from pydantic import Field, PositiveInt
from torch import Tensor

from experiments.data.transforms import CLEAN, Corrupt, choose, resize, spoil
from fanin.errors import DataError
from fanin.seeds import make_generator


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
    """The origin of images. Its attributes are known before anything is read or drawn.

    One whose images must not be resized says why in an attribute `not_resizable`.
    """

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


@dataclass(frozen=True)
class Data:
    """A source with the keys that all sources share.

    Parameters
    ----------
    source
        Where the images come from.
    n_train, n_test
        How many images to use, stratified by class; None: all.
    side
        Side length to which images are resized, 7 or more; None: as they are.
    seed
        Chooses the subsets and the corrupted images, and draws synthetic ones.
    corrupt
        A share of the *training* images to spoil, after subset and resizing.
    root
        Folder of data files; downloads go there.
    download
        Whether missing files may be fetched.
    """

    source: Source
    n_train: PositiveInt | None = None
    n_test: PositiveInt | None = None
    side: Annotated[int, Field(ge=7)] | None = None
    seed: int = 0
    corrupt: Corrupt = CLEAN
    root: str = "~/.cache/fanin"
    download: bool = True

    def __post_init__(self) -> None:
        sizes = {"n_train": self.source.train_size, "n_test": self.source.test_size}
        for name, size in sizes.items():
            wanted = getattr(self, name)
            if wanted is not None and wanted > size:
                raise ValueError(f"{name}={wanted}, but there are only {size} images")
        n_train = self.n_train or self.source.train_size
        if self.corrupt.share > 0 and self.corrupt.count(n_train) == 0:
            share = self.corrupt.share
            raise ValueError(f"corrupt.share={share} of {n_train} images is not even one image")
        why_not = getattr(self.source, "not_resizable", None)
        if why_not is not None and self.side is not None:
            raise ValueError(f"side: {why_not}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that `load` gives."""
        channels, height, width = self.source.shape
        return (channels, self.side or height, self.side or width)

    @property
    def n_classes(self) -> int | None:
        """Number of classes; None for regression."""
        return self.source.n_classes

    def prepare(self) -> None:
        """Make sure that the files are there and whole, fetching them if need be.

        Raises
        ------
        DataError
            A file is missing or damaged.
        """
        self.source.prepare(Path(self.root).expanduser(), self.download)

    def load(self) -> Dataset:
        """Read or draw the images, choose, resize and corrupt them.

        Raises
        ------
        DataError
            A file is missing or damaged.
        """
        whole = self.source.load(Path(self.root).expanduser(), self.download, self.seed)
        train = _subset(whole.train, self.n_train, make_generator("train subset", self.seed))
        test = _subset(whole.test, self.n_test, make_generator("test subset", self.seed))
        train, test = self._resized(train), self._resized(test)
        x = spoil(train.x, self.corrupt, make_generator("corrupt", self.seed))
        return replace(whole, train=Split(x, train.y), test=test)

    def _resized(self, split: Split) -> Split:
        return split if self.side is None else Split(resize(split.x, self.side), split.y)


def _subset(split: Split, n: int | None, rng: torch.Generator) -> Split:
    """Return `n` images in their old order; None or all of them: the split itself."""
    if n is None or n == len(split):
        return split
    chosen = choose(split.y, n, rng)
    return Split(split.x[chosen], split.y[chosen])
