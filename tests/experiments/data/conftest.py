"""Fixtures: tiny data sets in the published layouts, and the folder of the real ones."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

from experiments.data.fetch import FileSet


@pytest.fixture
def tiny_mnist() -> dict[str, bytes]:
    """Return six training and four test images in MNIST's layout: content by file name."""
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
    """Return the file set of `tiny_mnist`."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in tiny_mnist.items()}
    return FileSet(folders=("tiny", "tiny-other-name"), sha256=sums, mirrors=())


@pytest.fixture(scope="session")
def real_root() -> str:
    """Return the folder of the real MNIST and CIFAR-10 files."""
    if "FANIN_DATA" not in os.environ:
        pytest.skip("set FANIN_DATA to a folder with the real MNIST and CIFAR-10 files")
    return os.environ["FANIN_DATA"]
