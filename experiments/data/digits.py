"""The default data set: 1,797 handwritten digits from scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from experiments.data.checksums import verified
from experiments.data.dataset import Dataset, Split
from experiments.data.transforms import choose, resize
from fanin.errors import DataError
from fanin.seeds import make_generator

PACKAGE = "scikit-learn"
TABLE = "sklearn/datasets/data/digits.csv.gz"
TABLE_SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
MAX_VALUE = 16.0  # of scikit-learn's digits: counts of the dark pixels in 4x4 blocks


@dataclass(frozen=True)
class Digits:
    """Digits of 43 writers (Alpaydin, Kaynak 1998), resized from 8x8 to 28x28 bilinearly.

    The split is fixed and stratified: 1,437 training and 360 test images.
    """

    shape = (1, 28, 28)
    n_classes = 10
    train_size = 1437
    test_size = 360

    def prepare(self, root: Path, download: bool) -> None:
        """Verify the file in the installed package; the arguments have no effect."""
        read_table()

    def load(self, root: Path, download: bool, seed: int = 0) -> Dataset:
        """Read the digits from the installed package; the arguments have no effect."""
        table = torch.from_numpy(read_table())
        small = table[:, :-1].reshape(-1, 1, 8, 8).float() * (255.0 / MAX_VALUE)
        x = resize(small, self.shape[-1]).round().to(torch.uint8)
        y = table[:, -1]
        test = torch.zeros(len(y), dtype=torch.bool)
        test[choose(y, self.test_size, make_generator("digits split"))] = True
        return Dataset(
            Split(x[~test], y[~test]), Split(x[test], y[test]), self.n_classes, full_scale=255.0
        )


def read_table() -> Int64[np.ndarray, "image 65"]:
    """Read one row per image: its 64 pixels and its label.

    Reads the package's file directly, because importing scikit-learn takes a second.

    Raises
    ------
    DataError
        The package is not installed, or its file has another SHA-256 sum.
    """
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(TABLE)))
    except metadata.PackageNotFoundError as error:
        raise DataError(f"data=digits is part of {PACKAGE}: pip install {PACKAGE}") from error
    try:
        lines = verified(path, TABLE_SHA256).decode().splitlines()
    except ValueError as error:
        raise DataError(
            f"{path}: not the file of {PACKAGE}'s digits:\n  {error}\n"
            f"Reinstall the package: pip install --force-reinstall {PACKAGE}"
        ) from error
    return np.loadtxt(lines, np.int64, delimiter=",")
