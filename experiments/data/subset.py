"""A few images that stand for all: stratified by class, the same for the same seed."""

from __future__ import annotations

import torch
from jaxtyping import Int64, Num
from torch import Tensor

from experiments.data.dataset import Split


def subset(split: Split, n: int | None, rng: torch.Generator) -> Split:
    """Return `n` images in their old order; None or all of them: the split itself."""
    if n is None or n == len(split):
        return split
    chosen = choose(split.y, n, rng)
    return Split(split.x[chosen], split.y[chosen])


def choose(y: Num[Tensor, " image"], n: int, rng: torch.Generator) -> Int64[Tensor, " chosen"]:
    """Choose `n` indices at random, in ascending order.

    Classes (integer `y`) keep their shares: each gets its proportional count, rounded down or
    up so that the total is `n` (largest remainders; ties are broken at random). Real targets:
    plain sampling without replacement.

    Raises
    ------
    ValueError
        There are fewer than `n`.

    Examples
    --------
    >>> y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> y[choose(y, 4, torch.Generator().manual_seed(0))]
    tensor([0, 0, 1, 1])
    """
    if n > len(y):
        raise ValueError(f"asked for {n} images, but there are {len(y)}")
    if y.is_floating_point():
        return torch.randperm(len(y), generator=rng)[:n].sort().values
    classes, counts = y.unique(return_counts=True)
    chosen = []
    for label, wanted in zip(classes, _apportion(counts, n, rng), strict=True):
        members = (y == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=rng)[:wanted]])
    return torch.cat(chosen).sort().values


def _apportion(counts: Tensor, n: int, rng: torch.Generator) -> list[int]:
    # In integers: 7/10 of 10 in floating point could round down to 6.
    shares = counts * n
    wanted = shares // counts.sum()
    remainders = shares % counts.sum()
    shuffled = torch.randperm(len(counts), generator=rng)
    largest = shuffled[remainders[shuffled].argsort(descending=True, stable=True)]
    wanted[largest[: n - int(wanted.sum())]] += 1
    return wanted.tolist()
