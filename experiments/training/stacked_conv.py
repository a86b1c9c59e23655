"""Convolutions of a stack of networks: as a grouped convolution, or as a batched matrix product.

`torch.vmap` turns the convolutions of a stack into one convolution with a group per network. With
few input channels per group (grayscale or RGB images) these are slow on a GPU: cuDNN has no matrix
product to use, and torch's depthwise kernels take over for one channel. Then the convolution is
written as a product of the weights with the patches of all images, which `vmap` turns into one
batched matrix product with one factor per network. The patches are copied from views of the images
(`F.unfold` would launch a kernel per image and network). On a CPU a grouped convolution is faster
in all measured cases.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ConvMethod = Literal["auto", "grouped", "bmm"]
MAX_BMM_CHANNELS = 4  # input channels up to which `auto` uses a matrix product on a GPU


class UnfoldConv2d(nn.Conv2d):
    """A convolution computed as one product of the weights and the patches of all images."""

    def forward(
        self, x: Float[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image output out_height out_width"]:
        """Return the convolution of `x`."""
        height, width = cast(tuple[int, int], self.padding)
        x = F.pad(x, (width, width, height, height))
        for dim in (2, 3):
            x = _windows(x, dim, self.kernel_size[dim - 2], self.stride[dim - 2])
        # Now [image, channel, out_height, out_width, kernel_height, kernel_width]
        n_images, _, *out = x.shape[:4]
        patches = x.permute(1, 4, 5, 0, 2, 3).flatten(3).flatten(0, 2)
        y = self.weight.flatten(1) @ patches
        if self.bias is not None:
            y = y + self.bias.unsqueeze(-1)
        return y.unflatten(-1, (n_images, *out)).transpose(0, 1)


def _windows(x: Tensor, dim: int, size: int, stride: int) -> Tensor:
    """Return all windows of a dimension, with a new last dimension for their entries."""
    if not x.requires_grad:  # the first layer
        return x.unfold(dim, size, stride)
    # `vmap` has no batched gradient of `unfold`, and would launch a kernel per network.
    last = (x.shape[dim] - size) // stride * stride
    index = [slice(None)] * x.ndim
    entries = []
    for start in range(size):
        index[dim] = slice(start, start + last + 1, stride)
        entries.append(x[tuple(index)])
    return torch.stack(entries, -1)


def with_stacked_convs(
    model: nn.Module, device: torch.device, method: ConvMethod = "auto"
) -> nn.Module:
    """Return the model for a stack, with convolutions in the faster form; layers are shared.

    Parameters
    ----------
    model
        The model of one network. Only the convolutions of an `nn.Sequential` are replaced.
    device
        Device of the stack.
    method
        `grouped` and `bmm` use one form for all convolutions, where it is possible.
    """
    if type(model) is not nn.Sequential:
        return model
    return nn.Sequential(
        OrderedDict(
            (name, _as_unfold(layer) if _is_unfolded(layer, device, method) else layer)
            for name, layer in model.named_children()
        )
    )


def _is_unfolded(layer: nn.Module, device: torch.device, method: ConvMethod) -> bool:
    if type(layer) is not nn.Conv2d or method == "grouped":
        return False
    if layer.groups != 1 or layer.padding_mode != "zeros" or layer.dilation != (1, 1):
        return False
    if isinstance(layer.padding, str):
        return False
    few_channels = device.type == "cuda" and layer.in_channels <= MAX_BMM_CHANNELS
    return method == "bmm" or few_channels


def _as_unfold(layer: nn.Module) -> nn.Module:
    unfolding = copy.copy(layer)  # shares the parameters
    unfolding.__class__ = UnfoldConv2d
    return unfolding
