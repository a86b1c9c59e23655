"""Data sets from the user's own files, described in the config by the hash of their content.

A config contains everything that is needed before the files are read (sizes, shape, number of
classes), so a stored sweep can be analyzed without them.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import Field, PositiveInt

from experiments.config.instantiate import check_value, locate
from experiments.data.dataset import Dataset, Split
from experiments.data.transforms import choose
from fanin.errors import DataError
from fanin.seeds import make_generator

TestShare = Annotated[float, Field(gt=0, le=0.5)]
DEFAULT_TEST_SHARE = 0.2
Stamp = tuple[tuple[str, int, int], ...]
"""Names, sizes and modification times of files."""


@dataclass(frozen=True)
class OwnImages:
    """Content of the user's files.

    Parameters
    ----------
    train, test
        The splits; `test` is None if the files have no test split.
    n_classes
        Number of classes; None for regression.
    full_scale
        Largest possible pixel value.
    content
        Hash of the content.
    """

    train: Split
    test: Split | None
    n_classes: int | None
    full_scale: float
    content: str


class Format(Hashable, Protocol):
    """A format of the user's files."""

    def stamp(self, path: Path) -> Stamp:
        """Return a value that changes when the files change, without reading them."""

    def read(self, path: Path) -> OwnImages:
        """Read and check the files; raise DataError with a message of one line."""


@dataclass(frozen=True)
class Description:
    """Properties of the user's files that a config contains."""

    content: str
    shape: tuple[int, int, int]
    n_train: int
    n_test: int | None
    n_classes: int | None
    smallest_class: tuple[int, int] | None  # label and number of images


@dataclass(frozen=True)
class OwnData:
    """Base class of sources that read the user's own files.

    Parameters
    ----------
    content
        Hash of the files' content. `describe` computes this and the next four.
    shape
        Channels, height and width of an image.
    train_size, test_size
        Number of images of each split.
    n_classes
        Number of classes; None for regression.
    test_share
        Share of the images to use as the test split; None if the files have a test split.
    """

    content: str
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    train_size: PositiveInt
    test_size: PositiveInt
    n_classes: PositiveInt | None
    test_share: TestShare | None

    path_key: ClassVar[str]
    format: ClassVar[Format]

    @classmethod
    def describe(cls, node: Mapping[str, Any], key_path: str) -> dict[str, Any]:
        """Return an option's config node with the keys that describe the files' content.

        Raises
        ------
        DataError
            The files do not exist or have the wrong content. The message has one line.
        """
        path_key = f"{key_path}.{cls.path_key}"
        path = full_path(check_value(node.get(cls.path_key, "???"), str, path_key))
        share_key = f"{key_path}.test_share"
        share = check_value(node.get("test_share"), TestShare | None, share_key)
        try:
            files = _description(cls.format, path, cls.format.stamp(path))
            n_test = files.n_test
            if n_test is not None and share is not None:
                raise DataError(f"{share_key} is set, but {path} has its own test split")
            if n_test is None:
                share = share or DEFAULT_TEST_SHARE
                n_test = _size_of_test_split(files, share, path)
        except DataError as error:
            raise DataError(f"{path_key}: {error}") from error
        return {
            **node,
            cls.path_key: str(path),
            "content": files.content,
            "shape": list(files.shape),
            "train_size": files.n_train - (n_test if files.n_test is None else 0),
            "test_size": n_test,
            "n_classes": files.n_classes,
            "test_share": share,
        }

    @property
    def path(self) -> Path:
        """Path of the file or folder."""
        return full_path(getattr(self, self.path_key))

    def prepare(self, root: Path, download: bool) -> None:
        """Check that the files have the content of the config; the arguments have no effect."""
        self._read()

    def load(self, root: Path, download: bool, seed: int) -> Dataset:
        """Read the files; if they have no test split, draw it from `seed`, stratified by class."""
        images = self._read()
        train, test = images.train, images.test
        if test is None:
            train, test = _draw_test_split(train, self.test_size, seed)
        return Dataset(train, test, images.n_classes, images.full_scale)

    def _read(self) -> OwnImages:
        images = self.format.read(self.path)
        if images.content != self.content:
            raise DataError(
                f"{self.path} has changed since the sweep was planned; run the command again"
            )
        return images


def described(node: Mapping[str, Any], key_path: str) -> Mapping[str, Any]:
    """Return a node of the `data` group, with the content of the user's own files described."""
    source = locate(node, key_path)
    if isinstance(source, type) and issubclass(source, OwnData):
        return source.describe(node, key_path)
    return node


def full_path(text: str) -> Path:
    """Return an absolute path; workers and Slurm jobs may run in another folder.

    >>> full_path("/tmp/a/../x.npz")
    PosixPath('/tmp/x.npz')
    """
    return Path(os.path.abspath(Path(text).expanduser()))


@cache
def _description(format: Format, path: Path, stamp: Stamp) -> Description:
    """Read and describe files; cached, because a grid may name them many times."""
    images = format.read(path)
    smallest = None
    if images.n_classes is not None:
        labels, counts = images.train.y.unique(return_counts=True)
        smallest = (int(labels[counts.argmin()]), int(counts.min()))
    channels, height, width = images.train.x.shape[1:]
    return Description(
        images.content,
        (channels, height, width),
        len(images.train),
        None if images.test is None else len(images.test),
        images.n_classes,
        smallest,
    )


def _size_of_test_split(files: Description, share: float, path: Path) -> int:
    n_test = round(share * files.n_train)
    if n_test == 0:
        raise DataError(f"{path} has {files.n_train} images; test_share={share} is less than one")
    if files.smallest_class is not None and files.smallest_class[1] < 2:
        raise DataError(
            f"{path} has one image of class {files.smallest_class[0]}; a training and a test split "
            "need at least two of each class"
        )
    return n_test


def _draw_test_split(images: Split, n_test: int, seed: int) -> tuple[Split, Split]:
    is_test = images.y.new_zeros(len(images)).bool()
    is_test[choose(images.y, n_test, make_generator("own test split", seed))] = True
    return (
        Split(images.x[~is_test], images.y[~is_test]),
        Split(images.x[is_test], images.y[is_test]),
    )


def check_labels(train: Split, test: Split | None, names: str) -> int:
    """Return the number of classes; raise DataError unless labels are 0 to n_classes - 1.

    Parameters
    ----------
    train, test
        The splits, with integer labels.
    names
        Name of the labels in error messages.
    """
    low, high = int(train.y.min()), int(train.y.max())
    if low < 0:
        raise DataError(f"{names} has the label {low}; labels are 0 to n_classes - 1")
    expected = set(range(min(high, len(train)) + 1))  # more than `train` can have, if `high` is
    if missing := sorted(expected - set(train.y.unique().tolist())):
        raise DataError(
            f"{names} has labels up to {high}, but no image of class {missing[0]}; number the "
            "classes from 0 without gaps"
        )
    if high == 0:
        raise DataError(f"{names} has only one class")
    if test is not None:
        wrong = test.y[(test.y < 0) | (test.y > high)]
        if len(wrong):
            label = int(wrong[0])
            raise DataError(
                f"{names}_test has the label {label}; the labels of {names} are 0 to {high}"
            )
    return high + 1
