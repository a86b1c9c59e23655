"""Data sets as tensors: splits, the protocol of a source, and the `data` group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import torch
from jaxtyping import Num
from pydantic import Field, PositiveInt
from torch import Tensor

from experiments.data.fetch import FileSet, has_files
from experiments.data.transforms import (
    NO_CORRUPTION,
    Corrupt,
    choose,
    corrupt_images,
    resize,
)
from experiments.data_root import data_folder
from fanin.errors import DataError
from fanin.seeds import make_generator


@dataclass(frozen=True)
class Split:
    """Images with their targets.

    Parameters
    ----------
    x
        Images, channel first: uint8 (0 to 255) for pictures, float32 for noise and for pictures
        changed by `data.corrupt`.
    y
        Class of each image (int64), or its real target (float32).

    Raises
    ------
    DataError
        The numbers of images and targets differ.
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
    """A training and a test split.

    Parameters
    ----------
    train, test
        The splits.
    n_classes
        Number of classes; None for regression.
    full_scale
        Largest possible pixel value: 255 for pictures, 1 for noise.
    """

    train: Split
    test: Split
    n_classes: int | None
    full_scale: float


@runtime_checkable
class Source(Protocol):
    """Protocol of a source of images (an option of `conf/data/`).

    The attributes are known before any file is read. If images of a source must not be resized, its
    attribute `not_resizable` states the reason.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""

    @property
    def n_classes(self) -> int | None:
        """Number of classes; None for regression."""

    @property
    def train_size(self) -> int:
        """Number of training images."""

    @property
    def test_size(self) -> int:
        """Number of test images."""

    def prepare(self, root: Path, download: bool) -> None:
        """Verify the files, downloading missing ones if allowed. Synthetic images have none."""

    def load(self, root: Path, download: bool, seed: int) -> Dataset:
        """Read files under `root` (downloading them if `download`), or draw images from `seed`."""


@dataclass(frozen=True)
class Data:
    """A source and the keys common to all sources.

    Parameters
    ----------
    source
        Source of the images.
    n_train, n_test
        Number of images to use, stratified by class. None uses all.
    side
        Side length in pixels to resize images to, at least 7. None keeps their size.
    seed
        Seed of the subsets, of the corruption, and of synthetic images.
    corrupt
        Corruption of the *training* images, after subsetting and resizing.
    root
        Folder of the data files; downloads go there. None: the folder that the environment variable
        FANIN_DATA names, or `~/.cache/fanin`.
    download
        Download missing files.
    """

    source: Source
    n_train: PositiveInt | None = None
    n_test: PositiveInt | None = None
    side: Annotated[int, Field(ge=7)] | None = None
    seed: int = 0
    corrupt: Corrupt = NO_CORRUPTION
    root: str | None = None
    download: bool = True

    def __post_init__(self) -> None:
        sizes = {"n_train": self.source.train_size, "n_test": self.source.test_size}
        for name, size in sizes.items():
            n_images = getattr(self, name)
            if n_images is not None and n_images > size:
                raise ValueError(f"{name}={n_images}, but there are only {size} images")
        n_train = self.n_train or self.source.train_size
        if self.corrupt.share > 0 and self.corrupt.count(n_train) == 0:
            share = self.corrupt.share
            raise ValueError(f"corrupt.share={share} of {n_train} images is less than one image")
        reason = getattr(self.source, "not_resizable", None)
        if reason is not None and self.side is not None:
            raise ValueError(f"side: {reason}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the loaded images."""
        channels, height, width = self.source.shape
        return (channels, self.side or height, self.side or width)

    @property
    def n_classes(self) -> int | None:
        """Number of classes; None for regression."""
        return self.source.n_classes

    def lacks_files(self) -> bool:
        """Return True if a file of the source does not exist; reads and downloads nothing."""
        files = getattr(self.source, "files", None)
        return isinstance(files, FileSet) and not has_files(files, data_folder(self.root))

    def prepare(self) -> None:
        """Verify the files, and download missing ones if `download`.

        Raises
        ------
        DataError
            A file is missing or damaged.
        """
        self.source.prepare(data_folder(self.root), self.download)

    def load(self) -> Dataset:
        """Read or draw the images; subset, resize and corrupt them.

        Raises
        ------
        DataError
            A file is missing or damaged.
        """
        dataset = self.source.load(data_folder(self.root), self.download, self.seed)
        train = _subset(dataset.train, self.n_train, make_generator("train subset", self.seed))
        test = _subset(dataset.test, self.n_test, make_generator("test subset", self.seed))
        train, test = self._resized(train), self._resized(test)
        x = corrupt_images(train.x, self.corrupt, make_generator("corrupt", self.seed))
        return replace(dataset, train=Split(x, train.y), test=test)

    def _resized(self, split: Split) -> Split:
        return split if self.side is None else Split(resize(split.x, self.side), split.y)


def _subset(split: Split, n: int | None, rng: torch.Generator) -> Split:
    """Return `n` images in their original order; None returns the whole split."""
    if n is None or n == len(split):
        return split
    chosen = choose(split.y, n, rng)
    return Split(split.x[chosen], split.y[chosen])
