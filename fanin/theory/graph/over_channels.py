"""Rules for operations that combine channels: normalization over channels, and weight layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.field.geometry import Taps
from fanin.theory.field.state import LayerWeights
from fanin.theory.graph.channel import Channel, FreshChannel, Gaussian
from fanin.theory.graph.feature_map import FeatureMap, Group

NewField = Callable[[Sequence[int], Gaussian], FreshChannel]
"""Function that makes an independent Gaussian field of a given shape."""


@dataclass(frozen=True)
class ChannelNorm:
    """Normalization of each image over all its channels: layer, RMS or group norm of one group.

    With infinitely many channels the statistics are certain, so each point is multiplied by a
    constant.

    Attributes
    ----------
    over_positions
        True if the statistics are those of all positions of an image, False for each position.
    centred
        True if the mean is subtracted.
    eps
        Constant added to the variance.
    over_images
        True if the statistics are also those of all images.
    """

    over_positions: bool
    centred: bool
    eps: float
    over_images: bool = False

    def forward(self, x: FeatureMap) -> FeatureMap:
        mean, rate = self._statistics(x)
        return x.map(lambda channel: _affine(channel, mean, rate))

    def backward(self, x: FeatureMap, g: FeatureMap) -> FeatureMap:
        """Multiply the cotangent by the same constants.

        The statistics pass no cotangent on: their derivatives are averages over the channels of g
        and of g x, which are 0 because g is linear in fields of mean 0 that x does not depend on.
        """
        _, rate = self._statistics(x)
        return g.map(lambda channel: _affine_backward(channel, rate))

    def _statistics(self, x: FeatureMap) -> tuple[Tensor, Tensor]:
        mean = torch.zeros(x.groups[0].channel.points, dtype=torch.float64)
        if self.centred:
            mean = self._over_positions(x.mean, x.shape)
        var = self._over_positions(x.m2, x.shape) - mean.square()
        return mean, (var.clamp(min=0) + self.eps).rsqrt()

    def _over_positions(self, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        if not self.over_positions:
            return value
        rows = value.unflatten(0, (1 if self.over_images else shape[0], -1))
        return rows.mean(1, keepdim=True).expand_as(rows).flatten()


def _affine(x: Channel, mean: Tensor, rate: Tensor) -> Channel:
    """Return the distribution of (x - mean) * rate, for maps of constants."""
    grid = (x.shape[0], 1, *x.shape[1:])
    gaussian = None
    if x.gaussian is not None:
        new_mean = (x.gaussian.mean - mean) * rate
        if bool((new_mean == new_mean[0]).all()):
            cov = rate[:, None] * x.gaussian.cov * rate
            gaussian = Gaussian(cov, float(new_mean[0]))

    def products() -> Tensor:
        cross = x.mean[:, None] * mean
        centred = x.products - cross - cross.mT + mean[:, None] * mean
        return rate[:, None] * centred * rate

    return Channel(
        x.shape,
        lambda: (x.samples - mean.reshape(grid)) * rate.reshape(grid),
        products=products if x.is_closed else None,
        mean=lambda: (x.mean - mean) * rate,
        gaussian=gaussian,
        sources=x.sources,
        is_known=x.is_known,
        is_cheap=True,
        origin=x.origin,
    )


def _affine_backward(g: Channel, rate: Tensor) -> Channel:
    grid = (g.shape[0], 1, *g.shape[1:])
    gaussian = g.gaussian and Gaussian(rate[:, None] * g.gaussian.cov * rate)
    return Channel(
        g.shape,
        lambda: g.samples * rate.reshape(grid),
        products=(lambda: rate[:, None] * g.products * rate) if g.is_closed else None,
        gaussian=gaussian,
        sources=g.sources,
        linear_in=g.linear_in,
        is_cheap=True,
    )


@dataclass(frozen=True)
class WeightLayer:
    """A convolution or linear layer with random weights of mean 0."""

    name: str
    taps: Taps
    weights: LayerWeights

    def forward(self, x: FeatureMap, new_field: NewField) -> FeatureMap:
        """Return the pre-activations: an independent field for each group of the layer."""
        weights, inputs = self.weights, self.inputs(x)
        groups = []
        for products in inputs:
            cov = weights.group_in_channels * self.taps.forward_products(products, weights.var)
            gaussian = Gaussian(cov + weights.bias_var, weights.bias_mean)
            field = new_field((x.shape[0], *self.taps.positions), gaussian)
            groups.append(Group(weights.out_channels // len(inputs), field))
        return FeatureMap(tuple(groups))

    def backward(self, x: FeatureMap, g: FeatureMap, new_field: NewField) -> FeatureMap:
        """Return the cotangent of the input: an independent field for each group of channels."""
        received = torch.stack(
            [
                self.weights.group_out_channels
                * self.taps.backward_products(products, self.weights.var)
                for products in self.cotangents(g)
            ]
        )
        result, start = [], 0
        for group in x.groups:
            stop = start + group.size
            share = _overlap(start, stop, x.n_channels, len(received)) / group.size
            cov = torch.einsum("g,gpq->pq", share, received)
            result.append(Group(group.size, new_field(x.shape, Gaussian(cov))))
            start = stop
        return FeatureMap(tuple(result))

    def inputs(self, x: FeatureMap) -> list[Tensor]:
        """Return E[x(p) x(p')] of the channels that each group of the layer reads.

        The list has one entry if it is the same for all groups.
        """
        return _products_by_group(x, self.weights.groups)

    def cotangents(self, g: FeatureMap) -> list[Tensor]:
        """Return E[g(p) g(p')] of the output channels of each group of the layer."""
        return _products_by_group(g, self.weights.groups)

    def gradient_m2(self, x: FeatureMap, g: FeatureMap) -> Float[Tensor, " image"]:
        """Return E[(dL/dw)^2] for each image, averaged over the weights."""
        inputs, cotangents = self.inputs(x), self.cotangents(g)
        count = max(len(inputs), len(cotangents))
        pairs = zip(
            inputs * (count // len(inputs)), cotangents * (count // len(cotangents)), strict=True
        )
        gradients = [self.taps.gradient_m2_from_products(d, p, x.shape[0]) for p, d in pairs]
        return torch.stack(gradients).mean(0)


def _products_by_group(x: FeatureMap, groups: int) -> list[Tensor]:
    if groups == 1 or (len(x.groups) == 1 and not x.groups[0].channel.is_known):
        return [x.products]
    size = x.n_channels // groups
    return [x.slice(start, start + size).products for start in range(0, x.n_channels, size)]


def _overlap(start: int, stop: int, channels: int, groups: int) -> Float[Tensor, " group"]:
    """Return how many of the channels from `start` to `stop` each group of a layer reads."""
    ends = torch.arange(groups + 1, dtype=torch.float64) * (channels / groups)
    return (ends[1:].clamp(max=stop) - ends[:-1].clamp(min=start)).clamp(min=0)
