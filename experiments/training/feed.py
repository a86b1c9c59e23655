"""What a step is fed: images, targets, learning rate and dropout masks, of any step again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.data import Dataset
from experiments.scaling import FittedScaling
from experiments.schema import Cell
from experiments.training.batches import Batches
from experiments.training.layout import layout
from experiments.training.step import Params, Task
from experiments.training.transfer import to_device
from fanin.models.dropout import dropout_masks
from fanin.seeds import generator


class Inputs(NamedTuple):
    """The arguments of a step after its state."""

    x: Tensor
    y: Tensor
    lr: float | Tensor
    masks: Params


class Feed:
    """One cell's inputs at any step, on the device of its data."""

    def __init__(self, cell: Cell, task: Task, data: Dataset, scaling: FittedScaling) -> None:
        self.cell = cell
        self.scaling = scaling
        self.train_set = data.train
        self.total = cell.train.total_steps(len(data.train))
        self._task = task
        self.size = cell.train.batch_of(len(data.train))
        self.device = data.train.x.device
        self._layout = layout(task.model, cell.train.torch_dtype, self.device)
        self._batches = Batches(len(data.train), self.size, cell.seed_data, self.device)

    @property
    def steps_an_epoch(self) -> int:
        """Whole batches in one pass over the training images."""
        return len(self.train_set) // self.size

    def chosen(self, step: int) -> Tensor:
        """Indices of the step's images."""
        return self._batches.at(step)

    def masks(self, step: int) -> Params:
        """The step's dropout masks, drawn on the CPU."""
        rng = generator("dropout", self.cell.seed, step)
        return dropout_masks(self._task.model, self.size, rng, self.cell.train.torch_dtype)

    def factor(self, step: int) -> float:
        """What the schedule multiplies the learning rate by."""
        return self.cell.schedule.factor(step, self.total)

    def at(self, step: int) -> Inputs:
        """Return the inputs of one step."""
        chosen = self.chosen(step)
        x = self.scaling.apply(taken(self.train_set.x, chosen), self.cell.train.torch_dtype)
        masks = {name: to_device(mask, self.device) for name, mask in self.masks(step).items()}
        lr = self.cell.optim.lr * self.factor(step)
        y = taken(self.train_set.y, chosen)
        return Inputs(x.to(memory_format=self._layout), y, lr, masks)


class StackedFeed:
    """The inputs of several cells on one data set, each with a leading axis of cells.

    Every cell's slice has the bits that its own `Feed` gives, in the plain memory format.

    Parameters
    ----------
    feeds
        The cells' feeds; they differ in scaling, learning rate and seeds alone.
    """

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self._first = first = feeds[0]
        self._scaling = stacked_scaling([feed.scaling for feed in feeds], first.device)
        rates = [feed.cell.optim.lr for feed in feeds]
        self._lr = torch.tensor(rates, dtype=torch.float64, device=first.device)

    def at(self, step: int) -> Inputs:
        """Return the inputs of one step."""
        first = self._first
        chosen = torch.stack([feed.chosen(step) for feed in self._feeds])
        x = self._scaling.apply(taken(first.train_set.x, chosen), first.cell.train.torch_dtype)
        drawn = [feed.masks(step) for feed in self._feeds]
        masks = {
            name: to_device(torch.stack([masks[name] for masks in drawn]), first.device)
            for name in drawn[0]
        }
        y = taken(first.train_set.y, chosen)
        return Inputs(x, y, self._lr * first.factor(step), masks)


def taken(values: Tensor, chosen: Tensor) -> Tensor:
    """`values[chosen]`; indexing takes ten times as long over whole images."""
    rows = values.index_select(0, chosen.flatten())
    return rows.view(*chosen.shape, *values.shape[1:])


def stacked_scaling(scalings: Sequence[FittedScaling], device: torch.device) -> FittedScaling:
    """Join scalings into one for images [cell, image, channel, height, width]."""

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
