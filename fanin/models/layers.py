"""Layers that torch lacks or implements differently.

Normalizations use the statistics of the current batch, also in evaluation. So a network has no
state besides its parameters, and probes measure the same function that is trained. With `batch` and
`mean_only`, the output for an image depends on the other images of the batch. After a linear layer,
a batch of one image makes `batch` raise an error and `mean_only` return 0.
"""

from __future__ import annotations

from math import gcd
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Norm = Literal["none", "batch", "layer", "mean_only", "group"]

MAX_GROUPS = 8
"""Groups of `group`: of 16 channels, 2 each, as in the paper of 64 channels (32 groups)."""


class MeanOnly(nn.Module):
    """Batch normalization without division: subtracts each channel's mean over batch and positions.

    It removes the mean that weights of non-zero mean cause, and does not change the scale. It has
    no parameters and uses the current batch also in evaluation.

    Examples
    --------
    >>> MeanOnly()(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """

    def forward(self, x: Float[Tensor, "batch channel *position"]) -> Tensor:
        """Return `x` minus the mean of each channel."""
        return x - x.mean(dim=[0, *range(2, x.ndim)], keepdim=True)


def norm_layer(norm: Norm, channels: int, after_linear: bool) -> nn.Module | None:
    """Return a new normalization layer; None for `none`.

    Parameters
    ----------
    norm
        `batch` normalizes each channel to mean 0 and variance 1 over batch and positions, with a
        learned scale and shift (Ioffe & Szegedy 2015). `layer` does so over all channels and
        positions of one image (Ba et al. 2016). `mean_only` is `MeanOnly`. `group` does as `layer`
        does in each of 8 groups of channels (Wu & He 2018), or fewer if `channels` requires it.
    channels
        Channels of the map, or features of the vector.
    after_linear
        True if the preceding weight layer is linear.
    """
    match norm, after_linear:
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
        case "group", _:
            # At least two channels each: a single value would be normalized to 0.
            groups = 1 if channels % 2 else gcd(MAX_GROUPS, channels // 2)
            return nn.GroupNorm(groups, channels)
    raise ValueError(f"norm={norm}: valid: {', '.join(get_args(Norm))}")


class LocalResponseNorm(nn.Module):
    r"""Local response normalization: divides each channel by a power of a sum over neighbours.

    .. math:: b_i = a_i \Big/ \Big(k + \alpha \sum_{j=i-n/2}^{i+n/2} a_j^2\Big)^\beta

    with n = 5, alpha = 1e-4, beta = 0.75, k = 2 (Krizhevsky et al. 2012, section 3.3).
    `torch.nn.LocalResponseNorm` divides alpha by n, unlike the paper, and does not support half
    precision on a CPU.

    Parameters
    ----------
    size
        Number of channels n in the sum.
    alpha, beta, k
        Constants of the formula.

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
        """Return the normalized map, in the shape of `x`."""
        before = self.size // 2
        squares = F.pad(x.square(), (0, 0, 0, 0, before, self.size - 1 - before))
        channels = x.shape[1]
        energy = torch.stack([squares[:, i : i + channels] for i in range(self.size)]).sum(0)
        return x / (self.k + self.alpha * energy) ** self.beta


class SeededDropout(nn.Module):
    """Dropout with an explicit mask in training; the identity in evaluation.

    Torch's dropout draws from the global generator, so a cell's masks would depend on the other
    cells of its process, and `torch.func.vmap` does not support it. Here each training step draws
    the masks from the cell's generator and passes them to the network with the parameters:

        masks = dropout_masks(network, len(x), generator)
        functional_call(network, {**parameters, **masks}, (x,))

    Parameters
    ----------
    p
        Probability of setting a feature to zero. The other features are multiplied by
        1 / (1 - p), which keeps the mean (Srivastava et al. 2014, section 10).
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
        """Return `x` times the mask in training, `x` in evaluation.

        Raises
        ------
        RuntimeError
            The module is in training mode and has no mask.
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
        """Return the parameters that `print` shows."""
        return f"p={self.p}"


def dropout_masks(
    network: nn.Module,
    batch_size: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Draw the dropout masks of one training step, for `torch.func.functional_call`.

    Parameters
    ----------
    network
        A network with any number of `SeededDropout` layers.
    batch_size
        Number of images in the batch.
    generator
        CPU generator, seeded for this cell and step.
    dtype
        Dtype of the masks. Which features are dropped does not depend on it.

    Returns
    -------
    dict
        Maps `NAME.mask` to a CPU tensor of shape [batch, *features] with entries 0 or 1 / (1 - p),
        in forward order. Empty for a network without dropout.

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
    """Flatten as in torch, with a gradient in the memory format of the input.

    With `nn.Flatten`, the backward pass of a max-pool with a channels-last input converts the
    gradient to the other format and back, which takes a third of the time of a training step of a
    small network.
    """

    def forward(self, x: Float[Tensor, "image ..."]) -> Tensor:
        """Return one row per image, channels first."""
        # Compare strides, because is_contiguous(memory_format=...) is wrong under vmap.
        if x.requires_grad and x.ndim == 4 and x.stride(1) == 1 < x.stride(3):
            x.register_hook(_channels_last)
        return super().forward(x)


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)
