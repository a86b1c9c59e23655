"""The axes of a walk's tensors.

Image (one when images are taken jointly), particle (of the mean map that all channels share; one
where that map is certain), part (groups of channels that read different images' channels in a
grouped first layer; one otherwise) and point.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Points = Float[Tensor, "image particle part point"]
Pairs = Float[Tensor, "image particle part point point"]


def pick(
    x: Float[Tensor, "image particle part ..."], worlds: tuple[int, int, int], index: slice
) -> Float[Tensor, "world ..."]:
    """Some worlds of a tensor that is broadcast to all of them, without copying the others."""
    small = x.shape[:3]
    where = torch.arange(small.numel()).reshape(small).expand(worlds).flatten()[index]
    return x.flatten(0, 2)[where]


def overlaps(rows: int, columns: int) -> Float[Tensor, "row column"]:
    """Channels that row i's block and column j's block have in common, as a share of all.

    Examples
    --------
    >>> (8 * overlaps(2, 4)).tolist()
    [[2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 2.0]]
    """
    ends = [torch.arange(n + 1, dtype=torch.float64) / n for n in (rows, columns)]
    low = torch.maximum(ends[0][:-1, None], ends[1][:-1])
    high = torch.minimum(ends[0][1:, None], ends[1][1:])
    return (high - low).clamp(min=0)


def mixed(share: Float[Tensor, "to part"], x: Tensor) -> Tensor:
    """Parts summed into others, by their shares."""
    return torch.einsum("tp,irp...->irt...", share, x)
