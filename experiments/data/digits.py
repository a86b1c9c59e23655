"""The embedded default: 1,797 real handwritten digits that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from experiments.data.dataset import Dataset, Split
from experiments.data.fetch import verified
from experiments.data.transforms import choose, resize
from fanin.errors import DataError
from fanin.seeds import make_generator

PACKAGE = "scikit-learn"
TABLE = "sklearn/datasets/data/digits.csv.gz"
TABLE_SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
BRIGHTEST = 16.0  # scikit-learn's digits count the dark points of 4x4 blocks: 0 to 16


@dataclass(frozen=True)
class Digits:
    """Digits of 43 writers (Alpaydin, Kaynak 1998), 8x8 brought to 28x28 bilinearly.

    The split is stratified and always the same: 1,437 to train on, 360 to test.
    """

    shape = (1, 28, 28)
    n_classes = 10
    train_size = 1437
    test_size = 360

    def prepare(self, root: Path, download: bool) -> None:
        """Verify the installed package's file; neither argument matters."""
        read_table()

    def load(self, root: Path, download: bool, seed: int = 0) -> Dataset:
        """Read the digits out of the installed package; none of the arguments matters."""
        table = torch.from_numpy(read_table())
        small = table[:, :-1].reshape(-1, 1, 8, 8).float() * (255.0 / BRIGHTEST)
        x = resize(small, self.shape[-1]).round().to(torch.uint8)
        y = table[:, -1]
        test = torch.zeros(len(y), dtype=torch.bool)
        test[choose(y, self.test_size, make_generator("digits split"))] = True
        return Dataset(
            Split(x[~test], y[~test]), Split(x[test], y[test]), self.n_classes, full_scale=255.0
        )


def read_table() -> Int64[np.ndarray, "image 65"]:
    """A row per image: its 64 numbers, and which digit it is.

    The file is read as it lies in the package: importing scikit-learn takes a second.

    Raises
    ------
    DataError
        The package is not installed, or its file is not the one known.
    """
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(TABLE)))
    except metadata.PackageNotFoundError as error:
        raise DataError(f"data=digits is part of {PACKAGE}: pip install {PACKAGE}") from error
    try:
        lines = verified(path, TABLE_SHA256).decode().splitlines()
    except ValueError as error:
        raise DataError(
            f"{path}: not the digits that {PACKAGE} comes with:\n  {error}\n"
            f"Install it anew: pip install --force-reinstall {PACKAGE}"
        ) from error
    return np.loadtxt(lines, np.int64, delimiter=",")
