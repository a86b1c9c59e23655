"""Depthwise convolutions: each channel has its own kernel, so its output is not Gaussian.

The output is a product of random weights and random values. It is computed on samples: each sample
of the input channel has a kernel, the same forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fanin.inits.weight_shape import UNIFORM_KURTOSIS
from fanin.seeds import make_generator
from fanin.theory.field.sampling import whitened
from fanin.theory.graph.channel import Channel, Samples
from fanin.theory.graph.feature_map import FeatureMap, Group, aligned
from fanin.theory.graph.operations import Cotangents, Fields
from fanin.theory.graph.over_channels import WeightLayer

Points = Float[Tensor, "sample point"]


@dataclass(frozen=True)
class Depthwise:
    """A convolution with as many groups as channels, and weights of mean 0."""

    layer: WeightLayer

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
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
        pairs = []
        for y, received in zip(output.groups, g.groups, strict=True):
            assert isinstance(y.channel, DepthwiseOutput)
            pairs.append((y.size, y.channel, received.channel))
        return pairs


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
    def _kernels(self) -> Float[Tensor, "sample tap"]:
        weights, n = self._layer.weights, self._n_samples
        if weights.kurtosis == UNIFORM_KURTOSIS:
            stream = make_generator("kernels", *self._key)
            z = torch.rand((n, len(weights.var)), generator=stream, dtype=torch.float64)
            return (z - 0.5) * (12 * weights.var).sqrt()
        return whitened(n, len(weights.var), *self._key, "kernels")[:n] * weights.var.sqrt()

    def _read(self) -> Points:
        x = self._input.sample_points
        return F.pad(x.expand(self._n_samples, -1), (1, 0))

    def _run(self) -> Samples:
        weights = self._layer.weights
        read = self._read()
        y = torch.zeros(self._n_samples, self.points, dtype=torch.float64)
        for tap, index in enumerate(self._layer.taps.input_index.T):
            y += self._kernels[:, tap, None] * read[:, index]
        if weights.bias_var:
            bias = whitened(self._n_samples, 1, *self._key, "bias")[: self._n_samples]
            y += weights.bias_var**0.5 * bias
        return (y + weights.bias_mean).unflatten(1, self.shape).movedim(0, 1)

    def _closed_products(self) -> Tensor:
        weights = self._layer.weights
        products = self._layer.taps.forward_products(self._input.products, weights.var)
        return products + weights.bias_var + weights.bias_mean**2

    def backward(self, g: Channel) -> Channel:
        """Return the input's cotangent."""
        x = self._input

        def draw() -> Samples:
            received = g.sample_points.expand(self._n_samples, -1)
            result = torch.zeros(self._n_samples, 1 + x.points, dtype=torch.float64)
            for tap, index in enumerate(self._layer.taps.input_index.T):
                result.index_add_(1, index, self._kernels[:, tap, None] * received)
            return result[:, 1:].unflatten(1, x.shape).movedim(0, 1)

        return Channel(x.shape, draw, sources=self.sources | g.sources, linear_in=g.linear_in)

    def gradient_m2(self, g: Channel) -> Float[Tensor, " image"]:
        """Return E[(dL/dw)^2] for each image, averaged over the taps."""
        read, received = self._read(), g.sample_points.expand(self._n_samples, -1)
        squares = []
        for index in self._layer.taps.input_index.T:
            products = received * read[:, index]
            per_image = products.unflatten(1, (self.shape[0], -1)).sum(-1)
            squares.append(per_image.square().mean(0))
        return torch.stack(squares).mean(0)
