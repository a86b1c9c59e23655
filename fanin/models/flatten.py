"""Flattening, from a map in either memory format."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Flatten(nn.Flatten):
    """As torch's, and the gradient goes back in the memory format in which the map came.

    Else torch's max-pool turns the gradient of its channels-last input, the largest tensor in its
    place, to the other format and back: a third of the time of a small network's step.
    """

    def forward(self, x: Float[Tensor, "image ..."]) -> Tensor:
        """Return one row per image, channel first."""
        # Seen by strides: under vmap a tensor doesn't say whether it is channels last.
        if x.requires_grad and x.ndim == 4 and x.stride(1) == 1 < x.stride(3):
            x.register_hook(_channels_last)
        return super().forward(x)


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)
