"""Real data that ships with scikit-learn: digits, photos, tables and texts."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import torch
from sklearn import datasets
from torch import Tensor

from experiments.data import Digits

TEXTS = ("breast_cancer", "diabetes", "iris", "wine")


@cache
def _all_digits() -> tuple[Tensor, Tensor]:
    split = Digits().load(Path(), download=False).train
    order = torch.randperm(len(split.y), generator=torch.Generator().manual_seed(0))
    small = torch.nn.functional.avg_pool2d(split.x.float(), 2).round().to(torch.uint8)
    return small[order], split.y[order]


def raw_digits(count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Return images of digits, uint8 (count, 1, 14, 14), and their classes 0 to 9."""
    images, classes = _all_digits()
    return images[start : start + count].clone(), classes[start : start + count].clone()


def digits(count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Return images of digits with pixels in [0, 1], and their classes 0 to 9."""
    images, classes = raw_digits(count, start)
    return images / 255, classes


def normalized_digits(count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Return images of digits, normalized with the mean and deviation of all digits."""
    images, classes = digits(count, start)
    everything = _all_digits()[0] / 255
    return (images - everything.mean()) / everything.std(), classes


@cache
def _all_patches() -> tuple[Tensor, Tensor]:
    tiles = []
    for photo in datasets.load_sample_images().images:
        pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)
        for half in (pixels[:, :192], pixels[:, 224:416]):
            tile = half.unfold(1, 32, 32).unfold(2, 32, 32)
            tiles.append(tile.permute(1, 2, 0, 3, 4).reshape(-1, 3, 32, 32))
    classes = torch.arange(4).repeat_interleave(len(tiles[0]))
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    return torch.cat(tiles)[order], classes[order]


def raw_patches(count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Return colour patches, uint8 (count, 3, 32, 32), of the upper or lower half of two photos."""
    images, classes = _all_patches()
    return images[start : start + count].clone(), classes[start : start + count].clone()


def normalized_patches(count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Return colour patches, normalized for each channel, and their classes 0 to 3."""
    images, classes = raw_patches(count, start)
    everything = _all_patches()[0] / 255
    mean = everything.mean(dim=(0, 2, 3), keepdim=True)
    return (images / 255 - mean) / everything.std(dim=(0, 2, 3), keepdim=True), classes


@cache
def _table(name: str) -> tuple[Tensor, Tensor]:
    options = {"scaled": False} if name == "diabetes" else {}
    data = getattr(datasets, f"load_{name}")(**options)
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.data).float()[order], torch.tensor(data.target)[order]


def table(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Return rows of "breast_cancer", "wine" or "diabetes" in their units, and their targets."""
    features, targets = _table(name)
    return features[:count].clone(), targets[:count].clone()


def statistics(name: str) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation of each feature over all rows of a table."""
    features = _table(name)[0]
    return features.mean(dim=0), features.std(dim=0)


def standardized(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Return rows of a table with features of mean 0 and variance 1, and their targets."""
    features, targets = table(name, count)
    mean, deviation = statistics(name)
    return (features - mean) / deviation, targets


@cache
def _all_sentences() -> tuple[Tensor, Tensor, int]:
    vocabulary: dict[str, int] = {}
    rows, classes = [], []
    for label, name in enumerate(TEXTS):
        words = re.findall("[a-z]+", getattr(datasets, f"load_{name}")().DESCR.lower())
        tokens = [vocabulary.setdefault(word, len(vocabulary) + 1) for word in words]
        for first in range(0, min(len(tokens), 200) - 16, 5):
            length = 8 + first % 9
            rows.append(tokens[first : first + length] + [0] * (16 - length))
            classes.append(label)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return torch.tensor(rows)[order], torch.tensor(classes)[order], len(vocabulary) + 1


def sentences(count: int) -> tuple[Tensor, Tensor]:
    """Return tokens (count, 16), padded with 0, of texts about four data sets, and the text."""
    tokens, classes, _ = _all_sentences()
    return tokens[:count].clone(), classes[:count].clone()


def vocabulary_size() -> int:
    """Return the number of tokens, padding included."""
    return _all_sentences()[2]


def ink(images: Tensor) -> Tensor:
    """Return the darkness of 49 squares of each image: (count, 49), from 0 to 1."""
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1)
