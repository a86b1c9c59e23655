"""A cell's images on its device, scaled, for whatever looks at them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from experiments.data import Data, Dataset, Split
from experiments.scaling import FittedScaling, Scaling
from experiments.schema import Cell

CALIBRATION = 128  # images: a batch of the size that Mishkin & Matas 2016 calibrate on


def prepared(cell: Cell, device: torch.device) -> tuple[Dataset, FittedScaling]:
    """The cell's data on its device, with the scaling fitted to the training images."""
    return _data(cell.data, device), _fitted(cell.data, cell.scaling, device)


def probe_images(cell: Cell, data: Dataset, scaling: FittedScaling) -> Tensor:
    """The probe set as the network sees it: the first `probe.size` training images, scaled."""
    return scaling.apply(data.train.x[: cell.probe.size], cell.train.torch_dtype)


def calibration_images(cell: Cell, data: Dataset, scaling: FittedScaling) -> Tensor:
    """Return the training images for a scheme that looks at data (LSUV), whatever is probed."""
    return scaling.apply(data.train.x[:CALIBRATION], cell.train.torch_dtype)


@lru_cache(maxsize=2)
def _data(data: Data, device: torch.device) -> Dataset:
    """Cells of a pack share one copy; two, so that a change of data set keeps no third."""
    loaded = data.load()

    def moved(split: Split) -> Split:
        return Split(split.x.to(device), split.y.to(device))

    return replace(loaded, train=moved(loaded.train), test=moved(loaded.test))


@lru_cache(maxsize=8)
def _fitted(data: Data, scaling: Scaling, device: torch.device) -> FittedScaling:
    """Cells of a pack share statistics too: a pass over all of CIFAR takes longer than a probe."""
    loaded = _data(data, device)
    return scaling.fit(loaded.train.x, loaded.full_scale).to(device)
