"""A network, or its moments, with one assumption of simpler theories put back in place."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import pooling

from fanin.inits import Moments
from fanin.seeds import generator
from fanin.theory.layers import AVERAGE_POOL, MAX_POOL
from fanin.theory.moments import LayerMoments

POOLINGS = (*MAX_POOL.modules, *AVERAGE_POOL.modules)


def without_means(moments: Mapping[str, LayerMoments]) -> dict[str, LayerMoments]:
    """Weights of mean 0 and the same variance."""
    return {
        name: replace(layer, weight=Moments(0.0, layer.weight.var))
        for name, layer in moments.items()
    }


def without_biases(moments: Mapping[str, LayerMoments]) -> dict[str, LayerMoments]:
    """The same weights, and no biases."""
    return {name: replace(layer, bias=Moments(0.0, 0.0)) for name, layer in moments.items()}


def featureless(
    images: Float[Tensor, "image ..."], moments: Mapping[str, LayerMoments], seed: int = 0
) -> Float[Tensor, "image ..."]:
    """Images of the same mean square without any structure.

    All pixels alike where every weight has mean zero; otherwise the pixels of each image shuffled,
    which keeps their mean as well.
    """
    pixels = images.flatten(1)
    if all(not torch.as_tensor(layer.weight.mean).any() for layer in moments.values()):
        level = pixels.square().mean(1, keepdim=True).sqrt()
        return level.expand_as(pixels).reshape(images.shape).contiguous()
    stream = generator("shuffled pixels", seed)
    order = torch.stack([torch.randperm(pixels.shape[1], generator=stream) for _ in pixels])
    return pixels.gather(1, order).reshape(images.shape)


def circular(model: nn.Module) -> nn.Module:
    """A copy whose convolutions pad with the map's other side: it has no border."""
    copy = deepcopy(model)
    for module in copy.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.padding_mode == "zeros":
            module.padding_mode = "circular"
    return copy


def subsampled(model: nn.Module) -> nn.Module:
    """A copy that takes the middle of each pooling window, instead of its maximum or mean."""
    copy = deepcopy(model)
    _replace(copy)
    return copy


class Subsample(nn.AvgPool2d):
    """The middle element of each window: an average pooling, with one weight 1 and the rest 0.

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
        size, padding = _along(self.pool.kernel_size, axis), _along(self.pool.padding, axis)
        stride = _along(self.pool.stride, axis)
        reach = (size - 1) * _along(getattr(self.pool, "dilation", 1), axis)
        return [min(max(i * stride - padding + reach // 2, 0), inputs - 1) for i in range(outputs)]


def _along(option: object, axis: int) -> int:
    return int(option[axis]) if isinstance(option, tuple) else int(str(option))


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, POOLINGS):
            setattr(module, name, Subsample(child))
        else:
            _replace(child)
