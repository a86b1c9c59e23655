"""The embedded default: 1,797 real handwritten digits that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from experiments.data.dataset import Dataset, Split
from experiments.data.resize import resize
from experiments.data.subset import choose
from experiments.seeds import generator

BRIGHTEST = 16.0
"""scikit-learn's digits count the dark points of 4x4 blocks: 0 to 16."""


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
        """Nothing to do: there are no files."""

    def load(self, root: Path, download: bool, seed: int = 0) -> Dataset:
        """Read the digits out of the installed package; none of the arguments matters."""
        # Here, because this import takes longer than reading any data set.
        from sklearn.datasets import load_digits

        digits = load_digits()
        small = torch.from_numpy(digits.images).float()[:, None] * (255.0 / BRIGHTEST)
        x = resize(small, self.shape[-1]).round().to(torch.uint8)
        y = torch.from_numpy(digits.target.astype(np.int64))
        test = torch.zeros(len(y), dtype=torch.bool)
        test[choose(y, self.test_size, generator("digits split"))] = True
        return Dataset(
            Split(x[~test], y[~test]), Split(x[test], y[test]), self.n_classes, full_scale=255.0
        )
