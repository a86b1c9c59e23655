"""A cell's data on its device: the data set, its scaling, probe and calibration images."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from experiments.data import Data, Dataset, Split
from experiments.scaling import FittedScaling, Scaling
from experiments.schema import Cell

N_CALIBRATION = 128  # images; the batch size that Mishkin & Matas 2016 calibrate on


def prepared(cell: Cell, device: torch.device) -> tuple[Dataset, FittedScaling]:
    """Return the cell's data on the device, and the scaling fitted to the training images."""
    return _data(cell.data, device), _fitted(cell.data, cell.scaling, device)


def probe_images(cell: Cell, data: Dataset, scaling: FittedScaling) -> Tensor:
    """Return the probe images: the first `probe.size` training images, scaled."""
    return scaling.apply(data.train.x[: cell.probe.size], cell.train.torch_dtype)


def calibration_images(cell: Cell, data: Dataset, scaling: FittedScaling) -> Tensor:
    """Return the images for data-dependent init schemes (LSUV), independent of `probe.size`."""
    return scaling.apply(data.train.x[:N_CALIBRATION], cell.train.torch_dtype)


@lru_cache(maxsize=2)
def _data(data: Data, device: torch.device) -> Dataset:
    """Load a data set onto a device; cached, so that the cells of a pack share one copy."""
    loaded = data.load()

    def moved(split: Split) -> Split:
        return Split(split.x.to(device), split.y.to(device))

    return replace(loaded, train=moved(loaded.train), test=moved(loaded.test))


@lru_cache(maxsize=8)
def _fitted(data: Data, scaling: Scaling, device: torch.device) -> FittedScaling:
    """Fit a scaling; cached, because a pass over all of CIFAR takes longer than a probe."""
    loaded = _data(data, device)
    return scaling.fit(loaded.train.x, loaded.full_scale).to(device)
