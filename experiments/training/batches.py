"""In which order images are seen."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from experiments.training.transfer import to_device
from fanin.seeds import generator

Indices = Int[Tensor, "image"]


class Batches:
    """The image indices of any step; every epoch is a new permutation.

    The order depends on the seed and the sizes alone, so cells that differ in anything else see
    the same batches. What is left of an epoch after its last whole batch is dropped.

    Parameters
    ----------
    n_images, batch_size
        Images in all, and in a step.
    seed
        Of the permutations.
    device
        Where the indices are wanted; they go there once an epoch.
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
        """Return the indices of one step; steps in ascending order cost least."""
        epoch, position = divmod(step, self._n_images // self._batch_size)
        if epoch != self._epoch:
            rng = generator("order", self._seed, epoch)
            order = torch.randperm(self._n_images, generator=rng)
            self._order = to_device(order, self._device)
            self._epoch = epoch
        return self._order[position * self._batch_size : (position + 1) * self._batch_size]
