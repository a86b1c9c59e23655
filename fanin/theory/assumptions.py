"""Networks and images in which an assumption of He's formula holds, for `explain`."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import pooling

from fanin.inits import Moments
from fanin.seeds import make_generator
from fanin.theory.layers import AVERAGE_POOL, MAX_POOL
from fanin.theory.moments import LayerMoments


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of He's formula, for `explain`.

    Attributes
    ----------
    he_gains
        Activations multiply second moments by He's gain, forward and backward.
    subsamples
        Poolings return the middle of each window.
    expected_statistics
        Batch and instance normalization divide by the root of the second moment that their
        statistics have in expectation over the channels, and subtract no mean.
    """

    he_gains: bool = False
    subsamples: bool = False
    expected_statistics: bool = False


NO_ASSUMPTIONS = Assumptions()


POOLINGS = (*MAX_POOL.modules, *AVERAGE_POOL.modules)


def without_means(moments: Mapping[str, LayerMoments]) -> dict[str, LayerMoments]:
    """Set the mean of the weights to 0 and keep their variance."""
    return {
        name: replace(layer, weight=Moments(0.0, layer.weight.var))
        for name, layer in moments.items()
    }


def without_biases(moments: Mapping[str, LayerMoments]) -> dict[str, LayerMoments]:
    """Set the biases to 0."""
    return {name: replace(layer, bias=Moments(0.0, 0.0)) for name, layer in moments.items()}


def remove_structure(
    images: Float[Tensor, "image ..."], moments: Mapping[str, LayerMoments], seed: int = 0
) -> Float[Tensor, "image ..."]:
    """Return images without spatial structure and with the same mean square.

    If all weights have mean 0, all pixels of an image get the same value. Otherwise the pixels are
    shuffled, which also keeps their mean.
    """
    pixels = images.flatten(1)
    if all(not torch.as_tensor(layer.weight.mean).any() for layer in moments.values()):
        level = pixels.square().mean(1, keepdim=True).sqrt()
        return level.expand_as(pixels).reshape(images.shape).contiguous()
    stream = make_generator("shuffled pixels", seed)
    order = torch.stack([torch.randperm(pixels.shape[1], generator=stream) for _ in pixels])
    return pixels.gather(1, order).reshape(images.shape)


def use_circular_padding(model: nn.Module) -> nn.Module:
    """Return a copy whose convolutions use circular padding instead of zero padding."""
    copy = deepcopy(model)
    for module in copy.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.padding_mode == "zeros":
            module.padding_mode = "circular"
    return copy


def use_subsampling(model: nn.Module) -> nn.Module:
    """Return a copy that replaces pooling by the middle element of each window."""
    copy = deepcopy(model)
    _replace_pooling(copy)
    return copy


class Subsample(nn.AvgPool2d):
    """Pooling layer that returns the middle element of each window.

    Examples
    --------
    >>> middle = Subsample(nn.MaxPool2d(3, stride=2))
    >>> middle(torch.arange(25.0).reshape(1, 1, 5, 5)).flatten().tolist()
    [6.0, 8.0, 16.0, 18.0]
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__(1)
        self.pool = pool

    def forward(self, x: Float[Tensor, "image channel *position"]) -> Tensor:
        out = self.pool(x.detach())
        out = out[0] if isinstance(out, tuple) else out
        for axis, size in enumerate(out.shape[2:], start=2):
            middles = self._middles(axis - 2, x.shape[axis], size)
            x = x.index_select(axis, torch.tensor(middles, device=x.device))
        return x

    def _middles(self, axis: int, inputs: int, outputs: int) -> list[int]:
        if isinstance(self.pool, pooling._AdaptiveAvgPoolNd | pooling._AdaptiveMaxPoolNd):
            starts = [i * inputs // outputs for i in range(outputs)]
            stops = [ceil((i + 1) * inputs / outputs) for i in range(outputs)]
            return [(start + stop - 1) // 2 for start, stop in zip(starts, stops, strict=True)]
        size = _axis_option(self.pool.kernel_size, axis)
        padding = _axis_option(self.pool.padding, axis)
        stride = _axis_option(self.pool.stride, axis)
        reach = (size - 1) * _axis_option(getattr(self.pool, "dilation", 1), axis)
        return [min(max(i * stride - padding + reach // 2, 0), inputs - 1) for i in range(outputs)]


def _axis_option(option: object, axis: int) -> int:
    return int(option[axis]) if isinstance(option, tuple) else int(str(option))


def _replace_pooling(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, POOLINGS):
            setattr(module, name, Subsample(child))
        else:
            _replace_pooling(child)
