"""Normalization between a weight layer and its activation.

All of them use the statistics of the batch at hand, in evaluation too: a network then has no
state beside its parameters, and what is probed is what is trained. The price is that an image's
output under `batch` and `mean_only` depends on the images beside it; after a linear layer one
image alone is its own mean, so there `batch` refuses a batch of one and `mean_only` returns 0.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

Norm = Literal["none", "batch", "layer", "mean_only"]


class MeanOnly(nn.Module):
    """Subtract from each channel its mean over the batch and all positions.

    Batch normalization without the division: it takes away the mean that weights of non-zero
    mean build up and leaves the scale alone. There is nothing to learn, and the mean is that of
    the batch at hand in evaluation too.

    Examples
    --------
    >>> import torch
    >>> MeanOnly()(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """

    def forward(self, x: Float[Tensor, "batch channel *position"]) -> Tensor:
        """Return `x` with every channel centred."""
        return x - x.mean(dim=[0, *range(2, x.ndim)], keepdim=True)


def norm_layer(norm: Norm, channels: int, dense: bool) -> nn.Module | None:
    """Make a normalization layer; None for `none`.

    Parameters
    ----------
    norm
        `batch`: each channel to mean 0 and variance 1 over batch and positions, then a learned
        scale and shift (Ioffe & Szegedy 2015). `layer`: the same over all channels and positions
        of one image (Ba et al. 2016). `mean_only`: see `MeanOnly`.
    channels
        Channels of the map, or features of the vector, to be normalized.
    dense
        Whether it follows a linear layer.
    """
    match norm, dense:
        case "none", _:
            return None
        case "batch", True:
            return nn.BatchNorm1d(channels, track_running_stats=False)
        case "batch", False:
            return nn.BatchNorm2d(channels, track_running_stats=False)
        case "layer", True:
            return nn.LayerNorm(channels)
        case "layer", False:
            return nn.GroupNorm(1, channels)
        case "mean_only", _:
            return MeanOnly()
    raise ValueError(f"no such norm as {norm}")
