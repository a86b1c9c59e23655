"""Tiny data sets of the published layouts, and the real ones where they are at hand."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

from experiments.data.fetch import FileSet


@pytest.fixture
def tiny_mnist() -> dict[str, bytes]:
    """Six training and four test images of 28x28 in MNIST's layout: content by file name."""
    rng = np.random.default_rng(0)
    contents = {}
    for prefix, n in (("train", 6), ("t10k", 4)):
        for kind, shape in (("images-idx3", (n, 28, 28)), ("labels-idx1", (n,))):
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
            values = rng.integers(0, 10, shape, dtype=np.uint8)
            contents[f"{prefix}-{kind}-ubyte"] = header + values.tobytes()
    return contents


@pytest.fixture
def tiny_files(tiny_mnist: dict[str, bytes]) -> FileSet:
    """What is known of those files before they are read."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in tiny_mnist.items()}
    return FileSet(folders=("tiny", "tiny-spelt-otherwise"), sha256=sums, mirrors=())


@pytest.fixture(scope="session")
def real_root() -> str:
    """The folder with all of MNIST and CIFAR-10."""
    if "FANIN_DATA" not in os.environ:
        pytest.skip("FANIN_DATA names no folder with the real MNIST and CIFAR-10 files")
    return os.environ["FANIN_DATA"]
