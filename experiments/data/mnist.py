"""MNIST (LeCun, Cortes, Burges 1998) and Fashion-MNIST (Xiao, Rasul, Vollgraf 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from experiments.data.dataset import Dataset, Split
from experiments.data.fetch import FileSet, read
from fanin.errors import DataError

UNSIGNED_BYTE = 0x08

MNIST_FILES = FileSet(
    folders=("mnist", "MNIST/raw"),
    sha256={
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    },
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    ),
)

# SHA-256 sums of the files in Debian's package dataset-fashion-mnist (0.0~git20200523.55506a9-1).
FASHION_MNIST_FILES = FileSet(
    folders=("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
    sha256={
        "train-images-idx3-ubyte": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    },
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
    system=("/usr/share/datasets/fashion-mnist",),
)


@dataclass(frozen=True)
class Mnist:
    """Handwritten digits, 28x28 greyscale: 60,000 training and 10,000 test images."""

    files = MNIST_FILES
    shape = (1, 28, 28)
    n_classes = 10
    train_size = 60_000
    test_size = 10_000

    def prepare(self, root: Path, download: bool) -> None:
        """Find or download the files, and verify them."""
        read(self.files, root, download)

    def load(self, root: Path, download: bool, seed: int = 0) -> Dataset:
        """Read the four IDX files; `seed` has no effect."""
        return load_idx(self.files, root, download)


@dataclass(frozen=True)
class FashionMnist(Mnist):
    """Clothing, 28x28 greyscale: 60,000 training and 10,000 test images."""

    files = FASHION_MNIST_FILES


def load_idx(files: FileSet, root: Path, download: bool) -> Dataset:
    """Read a data set in MNIST's layout: images and labels, `train` and `t10k`, 10 classes.

    Raises
    ------
    DataError
        A file is missing or damaged, or the numbers of images and labels differ.
    """
    contents = read(files, root, download)

    def split(prefix: str) -> Split:
        images, labels = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        x = parse_idx(contents[images], 3, images)
        y = parse_idx(contents[labels], 1, labels)
        return Split(torch.from_numpy(x[:, None].copy()), torch.from_numpy(y.astype(np.int64)))

    return Dataset(split("train"), split("t10k"), n_classes=10, full_scale=255.0)


def parse_idx(content: bytes, ndim: int, name: str = "file") -> UInt8[np.ndarray, ...]:
    """Parse an IDX file of unsigned bytes.

    The file begins with a magic number and `ndim` big-endian sizes (`ndim` is 1 for labels, 3 for
    images).

    >>> parse_idx(bytes([0, 0, 8, 1,  0, 0, 0, 2,  7, 9]), ndim=1)
    array([7, 9], dtype=uint8)
    """
    magic = bytes([0, 0, UNSIGNED_BYTE, ndim])
    if content[:4] != magic:
        raise DataError(
            f"{name} is not an IDX file of {ndim} dimensions: it begins with "
            f"{content[:4].hex() or 'nothing'}, not {magic.hex()}"
        )
    header = 4 + 4 * ndim
    if len(content) < header:
        raise DataError(f"{name} ends within its header, after {len(content)} bytes")
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    size = int(np.prod(shape, dtype=object))
    if len(content) != header + size:
        raise DataError(
            f"{name} has {len(content)} bytes, but {header + size} according to its header"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
