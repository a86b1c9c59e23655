"""Convolutions of a stack of networks: as a grouped convolution, or as a batched matrix product.

`torch.vmap` turns the convolutions of a stack into one convolution with a group per network. With
few input channels per group (grayscale or RGB images) these are slow on a GPU: cuDNN has no matrix
product to use, and torch's depthwise kernels take over for one channel. Then the convolution is
written as `unfold` and a linear map, which `vmap` turns into one batched matrix product. On a CPU a
grouped convolution is faster in all measured cases.
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
    """A convolution computed as a product of the weights and the image's unfolded patches."""

    def forward(
        self, x: Float[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image output out_height out_width"]:
        """Return the convolution of `x`."""
        patches = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)  # type: ignore[arg-type]
        y = self.weight.flatten(1) @ patches
        if self.bias is not None:
            y = y + self.bias.unsqueeze(-1)
        paddings = cast(tuple[int, int], self.padding)
        out = [
            (size + 2 * padding - kernel) // stride + 1
            for size, padding, kernel, stride in zip(
                x.shape[-2:], paddings, self.kernel_size, self.stride, strict=True
            )
        ]
        return y.unflatten(-1, out)


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
    few_channels = device.type == "cuda" and layer.in_channels <= MAX_BMM_CHANNELS
    return method == "bmm" or few_channels


def _as_unfold(layer: nn.Module) -> nn.Module:
    unfolding = copy.copy(layer)  # shares the parameters
    unfolding.__class__ = UnfoldConv2d
    return unfolding
