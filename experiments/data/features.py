"""Regression on Gaussian features of unequal scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from experiments.data.dataset import Dataset, Split
from experiments.data.synthetic import Gaussian


@dataclass(frozen=True)
class Features:
    """Independent Gaussian features whose standard deviations differ, and a linear target.

    The features have mean 0 and are stored as images of one pixel with `count` channels, so that
    `scaling=standardize` scales each feature, as sklearn's StandardScaler does.

    Parameters
    ----------
    count
        Number of features.
    spread
        Largest standard deviation; the smallest is 1, and those between are spaced geometrically.
    train_size, test_size
        Number of samples to draw.
    noise
        Standard deviation of the noise on the target. Without it, the target is a linear function
        of the standardized features with variance 1.
    """

    count: PositiveInt = 10
    spread: PositiveFloat = 1000.0
    train_size: PositiveInt = 2_000
    test_size: PositiveInt = 1_000
    noise: NonNegativeFloat = 0.1

    not_resizable = "features are not pictures"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of features, as channels of an image of one pixel."""
        return (self.count, 1, 1)

    @property
    def n_classes(self) -> int | None:
        """None, because the target is a number."""
        return None

    def prepare(self, root: Path, download: bool) -> None:
        """Do nothing: there are no files."""

    def load(self, root: Path, download: bool, seed: int) -> Dataset:
        """Draw the features and the linear function from `seed`."""
        gaussian = Gaussian(
            channels=self.count, image_side=1, train_size=self.train_size,
            test_size=self.test_size, task="regression", noise=self.noise,
        )  # fmt: skip
        equal = gaussian.load(root, download, seed)
        std = self.spread ** torch.linspace(0, 1, self.count)[:, None, None]
        return replace(equal, train=_scaled(equal.train, std), test=_scaled(equal.test, std))


def _scaled(split: Split, std: Tensor) -> Split:
    return Split(split.x * std, split.y)
