"""CIFAR-10 and CIFAR-100 in the *binary* version (Krizhevsky 2009), which has no pickles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from experiments.data.dataset import Dataset, Split
from experiments.data.fetch import Archive, FileSet, read
from fanin.errors import DataError

PIXELS = 3 * 32 * 32
TORONTO = "https://www.cs.toronto.edu/~kriz"

CIFAR10_FILES = FileSet(
    folders=("cifar10", "cifar-10-batches-bin"),
    sha256={
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    mirrors=(TORONTO,),
    archive=Archive("cifar-10-binary.tar.gz"),
)

CIFAR100_FILES = FileSet(
    folders=("cifar100", "cifar-100-binary"),
    sha256={"train.bin": None, "test.bin": None},
    mirrors=(TORONTO,),
    archive=Archive("cifar-100-binary.tar.gz", md5="03b5dce01913d631647c71ecec9e9cb8"),
)


@dataclass(frozen=True)
class Cifar10:
    """Photographs of ten classes, 32x32 RGB: 50,000 training and 10,000 test images."""

    files = CIFAR10_FILES
    label_bytes = 1  # per record; the last one is the label
    shape = (3, 32, 32)
    n_classes = 10
    train_size = 50_000
    test_size = 10_000

    def prepare(self, root: Path, download: bool) -> None:
        """Find or download the files, and verify them."""
        read(self.files, root, download)

    def load(self, root: Path, download: bool, seed: int = 0) -> Dataset:
        """Read the record files; `seed` has no effect."""
        return load_records(self.files, root, download, self.label_bytes, self.n_classes)


@dataclass(frozen=True)
class Cifar100(Cifar10):
    """Photographs with CIFAR-100's 100 *fine* labels, of the same size and number as CIFAR-10."""

    files = CIFAR100_FILES
    n_classes = 100
    label_bytes = 2


def load_records(
    files: FileSet, root: Path, download: bool, label_bytes: int, n_classes: int
) -> Dataset:
    """Read a data set in CIFAR's layout; files named `test*` form the test split.

    Raises
    ------
    DataError
        A file is missing or damaged, or its size is not a multiple of the record size.
    """
    contents = read(files, root, download)

    def split(names: Iterable[str]) -> Split:
        parts = [parse_records(contents.pop(name), label_bytes, name) for name in names]
        x = np.concatenate([images for images, _ in parts])
        y = np.concatenate([labels for _, labels in parts])
        return Split(torch.from_numpy(x), torch.from_numpy(y.astype(np.int64)))

    train = [name for name in files.sha256 if not name.startswith("test")]
    test = [name for name in files.sha256 if name.startswith("test")]
    return Dataset(split(train), split(test), n_classes, full_scale=255.0)


def parse_records(
    content: bytes, label_bytes: int, name: str = "file"
) -> tuple[UInt8[np.ndarray, "image 3 32 32"], UInt8[np.ndarray, " image"]]:
    """Parse the images and labels of a record file.

    Parameters
    ----------
    content
        Records of `label_bytes` label bytes and 3,072 bytes of pixels, channel first.
    label_bytes
        1, or 2 (coarse, fine); the last one is the label.
    name
        Name of the file in error messages.

    Raises
    ------
    DataError
        The content is empty, or its size is not a multiple of the record size.
    """
    record = label_bytes + PIXELS
    if not content or len(content) % record:
        raise DataError(
            f"{name} has {len(content)} bytes, not a multiple of the record size of {record} bytes"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32), rows[:, label_bytes - 1]
