"""Operations of a graph, as rules on the distributions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from fanin.theory.graph.channel import Channel, FreshChannel, Gaussian
from fanin.theory.graph.elementary import (
    ChannelRule,
    PointFunction,
    add,
    add_cotangents,
    broadcast_backward,
    combine,
    combine_backward,
    multiply,
    multiply_backward,
)
from fanin.theory.graph.feature_map import FeatureMap, Group, aligned, join
from fanin.theory.graph.over_channels import ChannelNorm, WeightLayer

Cotangents = list[FeatureMap | None]


@dataclass
class Fields:
    """Source of the independent Gaussian fields of one pass.

    Attributes
    ----------
    samples
        Samples of each field.
    key
        Key of the random streams: seed, repeat.
    measured
        Values of the measured tensors in a drawn network, by index of the node.
    """

    samples: int
    key: tuple[object, ...]
    measured: Mapping[int, Tensor] = field(default_factory=dict)
    _number: count[int] = field(default_factory=count)

    def number(self) -> int:
        """Return the number of a new field."""
        return next(self._number)

    def new(self, shape: Sequence[int], gaussian: Gaussian) -> FreshChannel:
        """Return a field that is independent of all others."""
        number = self.number()
        return FreshChannel(shape, gaussian, number, self.samples, (*self.key, number))


class Operation(Protocol):
    """An operation with rules for both directions."""

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        """Return the distribution of the output."""
        ...

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        """Return the cotangent of each input, given the output's; None if it is not needed."""
        ...


@dataclass(frozen=True)
class PerChannel:
    """An operation on each channel."""

    rule: ChannelRule

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        return inputs[0].map(self.rule.forward)

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        return [_zipped(self.rule.backward, inputs[0], g)]


@dataclass(frozen=True)
class Add:
    """A sum of tensors."""

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        x, y = aligned(inputs)
        return FeatureMap(_pairwise(add, x, y))

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        return [_zipped(broadcast_backward, x, g) for x in inputs]


@dataclass(frozen=True)
class Multiply:
    """A product of two tensors, such as a gate."""

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        x, y = aligned(inputs)
        return FeatureMap(_pairwise(multiply, x, y))

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        x, y, g = aligned([*inputs, g])
        groups = list(zip(x.groups, y.groups, g.groups, strict=True))

        def cotangent(of: int) -> FeatureMap:
            return FeatureMap(
                tuple(
                    Group(
                        c[2].size, multiply_backward(c[of].channel, c[1 - of].channel, c[2].channel)
                    )
                    for c in groups
                )
            )

        return [cotangent(0), cotangent(1)]


@dataclass(frozen=True)
class Concatenate:
    """A concatenation of channels."""

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        return join(inputs)

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        results: Cotangents = []
        start = 0
        for x in inputs:
            results.append(g.slice(start, start + x.n_channels).moved(-start))
            start += x.n_channels
        return results


@dataclass(frozen=True)
class SelectChannels:
    """A slice of the channels."""

    start: int
    stop: int

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        return inputs[0].slice(self.start, self.stop).moved(-self.start)

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        (x,) = inputs
        parts = [
            _zeros(x, self.start),
            g.moved(self.start).groups,
            _zeros(x, x.n_channels - self.stop),
        ]
        return [FeatureMap(tuple(group for part in parts for group in part))]


@dataclass(frozen=True)
class PadChannels:
    """Zeros before and after the channels, as in the shortcut A of He et al. (2016)."""

    before: int
    after: int

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        (x,) = inputs
        zeros = _zeros(x, self.before), _zeros(x, self.after)
        return FeatureMap((*zeros[0], *x.moved(self.before).groups, *zeros[1]))

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        received = g.slice(self.before, self.before + inputs[0].n_channels)
        return [received.moved(-self.before)]


@dataclass(frozen=True)
class Pointwise:
    """An elementwise function of several tensors, such as `torch.where`.

    Attributes
    ----------
    function
        Function of the samples of all tensors.
    has_gradient
        False for each tensor of integers or truth values.
    """

    function: PointFunction
    has_gradient: tuple[bool, ...]

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        groups = zip(*(x.groups for x in aligned(inputs)), strict=True)
        return FeatureMap(
            tuple(
                Group(parts[0].size, combine(self.function, [part.channel for part in parts]))
                for parts in groups
            )
        )

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        groups = list(zip(*(x.groups for x in aligned([*inputs, g])), strict=True))

        def cotangent(of: int) -> FeatureMap:
            parts = []
            for group in groups:
                *channels, received = (part.channel for part in group)
                channel = combine_backward(self.function, channels, of, received)
                parts.append(Group(group[0].size, channel))
            return FeatureMap(tuple(parts))

        return [cotangent(i) if known else None for i, known in enumerate(self.has_gradient)]


@dataclass(frozen=True)
class NormalizeChannels:
    """Normalization over channels."""

    norm: ChannelNorm

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        return self.norm.forward(inputs[0])

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        return [self.norm.backward(inputs[0], g)]


@dataclass(frozen=True)
class Weights:
    """A weight layer."""

    layer: WeightLayer

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        return self.layer.forward(inputs[0], fields.new)

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        (x,) = inputs
        if all(group.channel.is_known for group in x.groups):
            return [None]
        return [self.layer.backward(x, g, fields.new)]


def sum_cotangents(x: FeatureMap | None, y: FeatureMap) -> FeatureMap:
    """Add a cotangent to those of a tensor's other uses."""
    if x is None:
        return y
    x, y = aligned([x, y])
    return FeatureMap(_pairwise(add_cotangents, x, y))


def _pairwise(
    function: Callable[[Channel, Channel], Channel], x: FeatureMap, y: FeatureMap
) -> tuple[Group, ...]:
    pairs = zip(x.groups, y.groups, strict=True)
    return tuple(Group(a.size, function(a.channel, b.channel)) for a, b in pairs)


def _zipped(
    function: Callable[[Channel, Channel], Channel], x: FeatureMap, g: FeatureMap
) -> FeatureMap:
    split, g = aligned([x, g])
    return FeatureMap(_pairwise(function, split, g))


def _zeros(x: FeatureMap, channels: int) -> tuple[Group, ...]:
    if channels == 0:
        return ()
    shape, points = x.shape, x.groups[0].channel.points
    gaussian = Gaussian(torch.zeros(points, points, dtype=torch.float64))

    def draw() -> torch.Tensor:
        return torch.zeros(shape[0], 1, *shape[1:], dtype=torch.float64)

    return (Group(channels, Channel(shape, draw, gaussian=gaussian)),)
