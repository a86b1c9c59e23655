"""Depthwise convolutions, and groups of few channels, whose output is not Gaussian.

The output is a sum of few products of random weights and random values. It is computed on samples:
each output sample has its own kernels, the same forward and backward, and reads as many
neighbouring input samples as a group has channels. As many output samples read each input sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fanin.inits.weight_shape import UNIFORM_KURTOSIS
from fanin.seeds import make_generator
from fanin.theory.field.sampling import whitened
from fanin.theory.field.state import LayerWeights
from fanin.theory.graph.channel import Channel, Samples
from fanin.theory.graph.feature_map import FeatureMap, Group, aligned
from fanin.theory.graph.operations import Cotangents, Fields
from fanin.theory.graph.over_channels import WeightLayer
from fanin.theory.layer_kind import UnpredictableLayer

Points = Float[Tensor, "sample point"]
MAX_SAMPLED_CHANNELS = 8  # of a group; larger groups are taken as Gaussian


def has_small_groups(weights: LayerWeights) -> bool:
    """Return True for depthwise convolutions, and for many groups of few channels each."""
    size = weights.group_in_channels
    return size == 1 or (
        size <= min(MAX_SAMPLED_CHANNELS, weights.groups - 1)
        and size == weights.group_out_channels
        and weights.kurtosis in (0, UNIFORM_KURTOSIS)
    )


@dataclass(frozen=True)
class Depthwise:
    """A convolution of small groups with as many outputs as inputs, and weights of mean 0."""

    layer: WeightLayer

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        self._require_whole_groups(inputs[0])
        return inputs[0].map(lambda x: DepthwiseOutput(self.layer, x, fields))

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        pairs = self._pairs(output, g)
        return [FeatureMap(tuple(Group(n, y.backward(received)) for n, y, received in pairs))]

    def gradient_m2(self, output: FeatureMap, g: FeatureMap) -> Float[Tensor, " image"]:
        """Return E[(dL/dw)^2] for each image, averaged over the weights."""
        pairs = self._pairs(output, g)
        total = sum(n * y.gradient_m2(received) for n, y, received in pairs)
        assert isinstance(total, Tensor)
        return total / output.n_channels

    def _pairs(
        self, output: FeatureMap, g: FeatureMap
    ) -> list[tuple[int, DepthwiseOutput, Channel]]:
        output, g = aligned([output, g])
        self._require_whole_groups(g)
        pairs = []
        for y, received in zip(output.groups, g.groups, strict=True):
            assert isinstance(y.channel, DepthwiseOutput)
            pairs.append((y.size, y.channel, received.channel))
        return pairs

    def _require_whole_groups(self, x: FeatureMap) -> None:
        size = self.layer.weights.group_in_channels
        if any(group.size % size for group in x.groups):
            raise UnpredictableLayer(
                self.layer.name,
                f"its groups of {size} channels contain channels of different tensors, or channels"
                " that are used in different ways, which is not supported",
            )


class DepthwiseOutput(Channel):
    """An output channel and its kernels, one for each sample."""

    def __init__(self, layer: WeightLayer, x: Channel, fields: Fields) -> None:
        self._number, self._n_samples = fields.number(), fields.samples
        self._key = (*fields.key, self._number)
        self._layer, self._input = layer, x
        super().__init__(
            (x.shape[0], *layer.taps.positions),
            self._run,
            products=self._closed_products if x.is_closed else None,
            mean=lambda: torch.full((self.points,), layer.weights.bias_mean, dtype=torch.float64),
            sources=x.sources | {(self._number, 0)},
        )

    @cached_property
    def _kernels(self) -> Float[Tensor, "sample channel tap"]:
        weights, n = self._layer.weights, self._n_samples
        shape = (weights.group_in_channels, len(weights.var))
        if weights.kurtosis == UNIFORM_KURTOSIS:
            stream = make_generator("kernels", *self._key)
            z = torch.rand((n, *shape), generator=stream, dtype=torch.float64)
            return (z - 0.5) * (12 * weights.var).sqrt()
        z = whitened(n, shape[0] * shape[1], *self._key, "kernels")[:n]
        return z.unflatten(1, shape) * weights.var.sqrt()

    @cached_property
    def _places(self) -> list[Int[Tensor, " sample"]]:
        """Input samples that each output sample reads: the same one, then its neighbours.

        Neighbouring samples are the channels of a group. The last group also has the rest of them.
        """
        n, size = self._n_samples, self._layer.weights.group_in_channels
        sample = torch.arange(n)
        last = (n // size - 1) * size
        start = (sample - sample % size).clamp(max=last)
        length = torch.where(start == last, n - last, size)
        return [start + (sample - start + i) % length for i in range(size)]

    def _read(self) -> Iterator[tuple[Points, Float[Tensor, "sample tap"]]]:
        """Yield the samples of each channel that is read, after a zero, and its kernels."""
        x = F.pad(self._input.sample_points.expand(self._n_samples, -1), (1, 0))
        for channel, place in enumerate(self._places):
            yield x[place], self._kernels[:, channel]

    def _run(self) -> Samples:
        weights = self._layer.weights
        y = torch.zeros(self._n_samples, self.points, dtype=torch.float64)
        for x, kernels in self._read():
            for kernel, index in zip(kernels.T, self._layer.taps.input_index.T, strict=True):
                y += kernel[:, None] * x[:, index]
        if weights.bias_var:
            bias = whitened(self._n_samples, 1, *self._key, "bias")[: self._n_samples]
            y += weights.bias_var**0.5 * bias
        return (y + weights.bias_mean).unflatten(1, self.shape).movedim(0, 1)

    def _closed_products(self) -> Tensor:
        weights = self._layer.weights
        products = self._layer.taps.forward_products(self._input.products, weights.var)
        return weights.group_in_channels * products + weights.bias_var + weights.bias_mean**2

    def backward(self, g: Channel) -> Channel:
        """Return the input's cotangent."""
        x = self._input

        def draw() -> Samples:
            received = g.sample_points.expand(self._n_samples, -1)
            result = torch.zeros(self._n_samples, 1 + x.points, dtype=torch.float64)
            for channel, place in enumerate(self._places):
                part = torch.zeros_like(result)
                for tap, index in enumerate(self._layer.taps.input_index.T):
                    part.index_add_(1, index, self._kernels[:, channel, tap, None] * received)
                result[place] += part
            return result[:, 1:].unflatten(1, x.shape).movedim(0, 1)

        return Channel(x.shape, draw, sources=self.sources | g.sources, linear_in=g.linear_in)

    def gradient_m2(self, g: Channel) -> Float[Tensor, " image"]:
        """Return E[(dL/dw)^2] for each image, averaged over the weights of a kernel."""
        received = g.sample_points.expand(self._n_samples, -1)
        squares = []
        for x, _ in self._read():
            for index in self._layer.taps.input_index.T:
                products = received * x[:, index]
                per_image = products.unflatten(1, (self.shape[0], -1)).sum(-1)
                squares.append(per_image.square().mean(0))
        return torch.stack(squares).mean(0)
