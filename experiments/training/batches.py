"""In which order images are seen."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from experiments.seeds import generator

Indices = Int[Tensor, "image"]


def batches(n_images: int, batch_size: int, steps: int, seed: int) -> Iterator[Indices]:
    """Yield the image indices of each step; every epoch is a new permutation.

    The order depends on the seed and the sizes alone, so cells that differ in anything else see
    the same batches. What is left of an epoch after its last whole batch is dropped.
    """
    whole = n_images // batch_size
    for step in range(steps):
        epoch, position = divmod(step, whole)
        if position == 0:
            order = torch.randperm(n_images, generator=generator("order", seed, epoch))
        yield order[position * batch_size : (position + 1) * batch_size]
