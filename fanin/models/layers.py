"""Layers that torch has not, or has otherwise.

Normalizations use the statistics of the batch at hand, in evaluation too: a network then has no
state beside its parameters, and what is probed is what is trained. The price is that an image's
output under `batch` and `mean_only` depends on the images beside it; after a linear layer one
image alone is its own mean, so there `batch` refuses a batch of one and `mean_only` returns 0.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
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


class LocalResponseNorm(nn.Module):
    r"""Divide each channel by the activity of its neighbours at the same position.

    .. math:: b_i = a_i \Big/ \Big(k + \alpha \sum_{j=i-n/2}^{i+n/2} a_j^2\Big)^\beta

    with n = 5, alpha = 1e-4, beta = 0.75, k = 2 (Krizhevsky et al. 2012, section 3.3).
    `torch.nn.LocalResponseNorm` divides alpha by n, which the paper does not, and has no half
    precision on a CPU.

    Examples
    --------
    >>> print(LocalResponseNorm(beta=1.0)(torch.full((1, 1, 1, 1), 100.0)).item())  # 100 / (2 + 1)
    33.33333206176758
    """

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
    ) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Return the normalized map, of the shape of `x`."""
        before = self.size // 2
        squares = F.pad(x.square(), (0, 0, 0, 0, before, self.size - 1 - before))
        channels = x.shape[1]
        energy = torch.stack([squares[:, i : i + channels] for i in range(self.size)]).sum(0)
        return x / (self.k + self.alpha * energy) ** self.beta


class SeededDropout(nn.Module):
    """Multiply by a given mask in training; do nothing in evaluation.

    Torch's own dropout draws from a global generator: a cell's masks would depend on which cells
    run beside it, and `torch.func.vmap` refuses it. Here one step draws the masks first, from the
    cell's own generator, and hands them to the network along with the parameters:

        masks = dropout_masks(network, len(x), generator)
        functional_call(network, {**parameters, **masks}, (x,))

    Parameters
    ----------
    p
        Share of the features set to zero; the others are multiplied by 1 / (1 - p), which keeps
        the mean (Srivastava et al. 2014, section 10).
    features
        Shape of one image's features at this layer.
    """

    mask: Tensor | None

    def __init__(self, p: float, features: tuple[int, ...]) -> None:
        super().__init__()
        self.p = p
        self.features = features
        self.register_buffer("mask", None, persistent=False)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Tensor:
        """Return `x` with the masked features dropped.

        Raises
        ------
        RuntimeError
            In training, when no mask was given: to go on would silently train without dropout.
        """
        if not self.training:
            return x
        if self.mask is None:
            raise RuntimeError(
                "dropout in training needs masks: add dropout_masks(network, batch_size, "
                "generator) to the dictionary given to torch.func.functional_call, "
                "or call network.eval()"
            )
        return x * self.mask

    def extra_repr(self) -> str:
        """Describe the module for `print`."""
        return f"p={self.p}"


def dropout_masks(
    network: nn.Module,
    batch_size: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Draw one step's masks, in forward order, by the names that `functional_call` wants.

    Parameters
    ----------
    network
        A network with any number of `SeededDropout` layers.
    batch_size
        Images in the step's batch.
    generator
        A CPU generator seeded for this cell's dropout and this step.
    dtype
        Of the masks; which features are dropped does not depend on it.

    Returns
    -------
    dict
        `NAME.mask` to a tensor of shape [batch, *features] on the CPU, entries 0 or 1 / (1 - p);
        empty for a network without dropout.

    Examples
    --------
    >>> network = nn.Sequential()
    >>> network.add_module("drop1", SeededDropout(0.5, (4,)))
    >>> dropout_masks(network, 2, torch.Generator().manual_seed(0))["drop1.mask"].unique()
    tensor([0., 2.])
    """
    masks = {}
    for name, layer in network.named_modules():
        if isinstance(layer, SeededDropout):
            uniform = torch.rand((batch_size, *layer.features), generator=generator)
            masks[f"{name}.mask"] = (uniform >= layer.p).to(dtype) / (1 - layer.p)
    return masks


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
