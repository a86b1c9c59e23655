"""MNIST (LeCun, Cortes, Burges 1998) and Fashion-MNIST (Xiao, Rasul, Vollgraf 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from experiments.data.dataset import Dataset, Split
from experiments.data.files import FileSet, read
from experiments.data.idx import parse_idx

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

# Sums of what Debian's package dataset-fashion-mnist (0.0~git20200523.55506a9-1) holds.
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
    """Handwritten digits, 28x28 grey: 60,000 to train on, 10,000 to test."""

    shape = (1, 28, 28)
    n_classes = 10
    train_size = 60_000
    test_size = 10_000

    def prepare(self, root: Path, download: bool) -> None:
        """Find or fetch the files, and verify them."""
        read(MNIST_FILES, root, download)

    def load(self, root: Path, download: bool, seed: int = 0) -> Dataset:
        """Read the four IDX files; `seed` changes nothing."""
        return load_idx(MNIST_FILES, root, download)


@dataclass(frozen=True)
class FashionMnist:
    """Clothes, 28x28 grey: 60,000 to train on, 10,000 to test."""

    shape = (1, 28, 28)
    n_classes = 10
    train_size = 60_000
    test_size = 10_000

    def prepare(self, root: Path, download: bool) -> None:
        """Find or fetch the files, and verify them."""
        read(FASHION_MNIST_FILES, root, download)

    def load(self, root: Path, download: bool, seed: int = 0) -> Dataset:
        """Read the four IDX files; `seed` changes nothing."""
        return load_idx(FASHION_MNIST_FILES, root, download)


def load_idx(files: FileSet, root: Path, download: bool) -> Dataset:
    """Read a data set of MNIST's layout: images and labels, `train` and `t10k`, 10 classes.

    Raises
    ------
    DataError
        A file is missing, damaged, or does not match its fellow.
    """
    contents = read(files, root, download)

    def split(prefix: str) -> Split:
        images, labels = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        x = parse_idx(contents[images], 3, images)
        y = parse_idx(contents[labels], 1, labels)
        return Split(torch.from_numpy(x[:, None].copy()), torch.from_numpy(y.astype(np.int64)))

    return Dataset(split("train"), split("t10k"), n_classes=10, full_scale=255.0)
