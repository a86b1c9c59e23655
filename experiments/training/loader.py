"""Batches: images, targets, learning rate and dropout masks of any step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from experiments.data import Dataset
from experiments.scaling import FittedScaling
from experiments.schema import Cell
from experiments.training.cpu_performance import memory_format
from experiments.training.step import Params
from fanin.models import ModuleModel, SeededDropout, dropout_masks
from fanin.seeds import make_generator, seeded

# Scale all images once, instead of each batch, if they are small and used several times.
SCALED_EPOCHS, MAX_SCALED_BYTES = 2, 2**26

Indices = Int[Tensor, "image"]


class Batch(NamedTuple):
    """Input of a training step: images, targets, learning rate and dropout masks."""

    x: Tensor
    y: Tensor
    lr: float | Tensor
    masks: Params


class BatchLoader:
    """Loader of one cell's batches, on the device of its data."""

    def __init__(self, cell: Cell, model: nn.Module, data: Dataset, scaling: FittedScaling) -> None:
        self.cell = cell
        self.scaling = scaling
        self.train_set = data.train
        self.device = data.train.x.device
        self.n_steps = cell.train.total_steps(len(data.train))
        self.batch_size = cell.train.batch_of(len(data.train))
        self.steps_per_epoch = len(data.train) // self.batch_size
        self._model = model
        self.has_dropout = any(isinstance(layer, SeededDropout) for layer in model.modules())
        self.memory_format = memory_format(model, cell.train.torch_dtype, self.device)
        self._order = BatchOrder(len(data.train), self.batch_size, cell.seed_data, self.device)
        self._dtype = cell.train.torch_dtype
        self._images, self._scaling = data.train.x, scaling.to(self.device, self._dtype)
        self._are_scaled = (
            self.n_steps >= SCALED_EPOCHS * self.steps_per_epoch
            and self._images.numel() * self._dtype.itemsize <= MAX_SCALED_BYTES
        )
        if self._are_scaled:
            self._images = scaled_images(self._images, scaling, self._dtype)

    def indices(self, step: int) -> Tensor:
        """Return the indices of the step's images."""
        return self._order.at(step)

    def masks(self, step: int) -> Params:
        """Return the step's dropout masks, drawn on the CPU."""
        if not self.has_dropout:
            return {}
        rng = make_generator("dropout", self.cell.seed, step)
        return dropout_masks(self._model, self.batch_size, rng, self.cell.train.torch_dtype)

    def seeded(self, step: int) -> AbstractContextManager[None]:
        """Seed torch's global generators in a step of the user's own network (`nn.Dropout`)."""
        if isinstance(self.cell.model, ModuleModel):
            return seeded("step", self.cell.seed, step)
        return nullcontext()

    def lr_factor(self, step: int) -> float:
        """Return the schedule's factor of the learning rate at a step."""
        return self.cell.schedule.factor(step, self.n_steps)

    def at(self, step: int) -> Batch:
        """Return the batch of one step."""
        indices = self.indices(step)
        x = take(self._images, indices)
        if not self._are_scaled:
            x = self._scaling.apply(x, self._dtype)
        masks = {name: to_device(mask, self.device) for name, mask in self.masks(step).items()}
        lr = self.cell.optim.lr * self.lr_factor(step)
        y = take(self.train_set.y, indices)
        if self.memory_format is torch.channels_last:
            x = x.to(memory_format=torch.channels_last)
        return Batch(x, y, lr, masks)


class BatchInputs(NamedTuple):
    """Input of a stack's step from the host: image numbers, learning rates and masks."""

    indices: Tensor
    lr: Tensor
    masks: Params


class StackedBatchLoader:
    """Loader of batches with a leading axis of cells, for cells on one data set.

    Each cell's slice is bit-identical to the batch of its `BatchLoader`, in the contiguous memory
    format.

    Parameters
    ----------
    loaders
        The cells' loaders, which may differ only in scaling, learning rate and seeds.
    """

    def __init__(self, loaders: Sequence[BatchLoader]) -> None:
        self._loaders = loaders
        self._first = first = loaders[0]
        self._dtype = first.cell.train.torch_dtype
        scaling = stacked_scaling([loader.scaling for loader in loaders], first.device)
        self._scaling = scaling.to(first.device, self._dtype)
        rates = [loader.cell.optim.lr for loader in loaders]
        self._lr = torch.tensor(rates, dtype=torch.float64, device=first.device)
        seeds = [loader.cell.seed_data for loader in loaders]
        self._order = StackedBatchOrder(len(first.train_set), first.batch_size, seeds, first.device)

    def inputs(self, step: int) -> BatchInputs:
        """Return what `batch` needs for one step."""
        first = self._first
        masks: Params = {}
        if first.has_dropout:
            cell_masks = [loader.masks(step) for loader in self._loaders]
            masks = {
                name: to_device(torch.stack([masks[name] for masks in cell_masks]), first.device)
                for name in cell_masks[0]
            }
        return BatchInputs(self._order.at(step), self._lr * first.lr_factor(step), masks)

    def batch(self, inputs: BatchInputs) -> Batch:
        """Return a batch; all work is done on the device."""
        images = self._first.train_set
        x = self._scaling.apply(take(images.x, inputs.indices), self._dtype)
        return Batch(x, take(images.y, inputs.indices), inputs.lr, inputs.masks)


class BatchOrder:
    """The image indices of each step; every epoch is a new permutation.

    The order depends only on the seed and the sizes, so cells that differ in anything else get the
    same batches. The images after the last whole batch of an epoch are dropped.

    Parameters
    ----------
    n_images, batch_size
        Number of images in total and per step.
    seed
        Seed of the permutations.
    device
        Device of the indices, which are copied once per epoch.
    """

    def __init__(
        self, n_images: int, batch_size: int, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self._n_images = n_images
        self._batch_size = batch_size
        self._seed = seed
        self._device = device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def at(self, step: int) -> Indices:
        """Return the indices of one step; steps in ascending order are fastest."""
        epoch, position = divmod(step, self._n_images // self._batch_size)
        if epoch != self._epoch:
            self._order = to_device(self.permutation(epoch), self._device)
            self._epoch = epoch
        return self._order[position * self._batch_size : (position + 1) * self._batch_size]

    def permutation(self, epoch: int) -> Indices:
        """Return the indices of an epoch, on the CPU."""
        rng = make_generator("order", self._seed, epoch)
        return torch.randperm(self._n_images, generator=rng)


class StackedBatchOrder:
    """The image indices of each step for several cells, copied to the device once per epoch.

    Parameters
    ----------
    n_images, batch_size, device
        As for `BatchOrder`.
    seeds
        Seeds of the permutations, one per cell.
    """

    def __init__(
        self, n_images: int, batch_size: int, seeds: Sequence[int], device: torch.device
    ) -> None:
        self._orders = {seed: BatchOrder(n_images, batch_size, seed) for seed in seeds}
        self._seeds = seeds
        self._batch_size = batch_size
        self._steps_per_epoch = n_images // batch_size
        self._device = device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def at(self, step: int) -> Int[Tensor, "cell image"]:
        """Return the indices of one step; steps in ascending order are fastest."""
        epoch, position = divmod(step, self._steps_per_epoch)
        if epoch != self._epoch:
            # 32 bits, because 1,024 permutations of 50,000 images have 51 million entries.
            rows = {s: order.permutation(epoch).int() for s, order in self._orders.items()}
            self._order = to_device(torch.stack([rows[s] for s in self._seeds]), self._device)
            self._epoch = epoch
        return self._order[:, position * self._batch_size : (position + 1) * self._batch_size]


@lru_cache(maxsize=1)
def scaled_images(images: Tensor, scaling: FittedScaling, dtype: torch.dtype) -> Tensor:
    """Return scaled images; cached, so that the cells of a pack share one copy."""
    return scaling.apply(images, dtype)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to a device, through pinned memory so that the host doesn't wait."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def take(values: Tensor, indices: Tensor) -> Tensor:
    """Return `values[indices]`; for images this is ten times as fast as indexing."""
    rows = values.index_select(0, indices.flatten())
    return rows.view(*indices.shape, *values.shape[1:])


def stacked_scaling(scalings: Sequence[FittedScaling], device: torch.device) -> FittedScaling:
    """Stack scalings into one for images [cell, image, channel, height, width]."""

    def joined(statistics: list[Tensor]) -> Tensor:
        return torch.stack(torch.broadcast_tensors(*statistics)).unsqueeze(1)

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device).reshape(-1, 1, 1, 1, 1)

    return FittedScaling(
        joined([s.center for s in scalings]),
        joined([s.spread for s in scalings]),
        column([float(s.scale) for s in scalings]),
        column([float(s.shift) for s in scalings]),
    )
