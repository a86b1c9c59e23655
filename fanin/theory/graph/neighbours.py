"""Operations that combine a few neighbouring channels, run on samples.

Samples are independent channels, so neighbouring samples serve as the channels of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fanin.theory.elementwise import vjp
from fanin.theory.graph.channel import NO_SOURCES, Channel, Samples
from fanin.theory.graph.feature_map import FeatureMap, Group
from fanin.theory.graph.operations import Cotangents, Fields
from fanin.theory.layer_kind import UnpredictableLayer

Channels = Sequence[Channel]


@dataclass(frozen=True)
class GroupNorm:
    """Group normalization of several groups.

    A group may have channels of several tensors, such as those of a concatenation.

    Attributes
    ----------
    name
        Of the layer.
    size
        Channels of a group.
    eps
        Constant added to the variance.
    """

    name: str
    size: int
    eps: float

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        groups = []
        for parts in self._split(inputs[0]):
            sampled = self._sampled(parts, fields)
            channels = [part.channel for part in parts]
            for of, part in enumerate(parts):
                groups.append(Group(part.size, sampled.forward(channels, of)))
        return FeatureMap(tuple(groups))

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        groups: list[Group] = []
        start = 0
        for parts in self._split(inputs[0]):
            sampled = self._sampled(parts, fields)
            channels = [part.channel for part in parts]
            received = []
            for part in parts:
                received.append(_merged(g.slice(start, start + part.size)))
                start += part.size
            if len(parts) == 1:  # whole groups, which later layers may use in different ways
                groups += self._backward_of_one(
                    sampled, channels[0], FeatureMap(tuple(received[0]))
                )
                continue
            self._require_one(received)
            cotangents = [of_part[0].channel for of_part in received]
            for of, part in enumerate(parts):
                groups.append(Group(part.size, sampled.backward(channels, cotangents, of)))
        return [FeatureMap(tuple(groups))]

    def _backward_of_one(
        self, sampled: _SampledGroups, x: Channel, g: FeatureMap
    ) -> Iterator[Group]:
        for pieces in _runs(g, self.size):
            if len(pieces) == 1:
                channel = sampled.backward([x], [pieces[0].channel], 0)
                yield Group(pieces[0].size, channel)
                continue
            for of, piece in enumerate(pieces):
                yield Group(piece.size, sampled.backward_of_pieces(x, pieces, of))

    def _split(self, x: FeatureMap) -> Iterator[tuple[Group, ...]]:
        for parts in _runs(x, self.size):
            if len(parts) > 1 and any(part.channel.is_known for part in parts):
                raise UnpredictableLayer(
                    self.name, "a group that contains channels of the images is not supported"
                )
            yield parts

    def _sampled(self, parts: Sequence[Group], fields: Fields) -> _SampledGroups:
        sizes = (self.size,) if len(parts) == 1 else tuple(part.size for part in parts)
        return _SampledGroups(sizes, fields.samples, self.eps)

    def _require_one(self, received: Sequence[Sequence[Group]]) -> None:
        if any(len(of_part) > 1 for of_part in received):
            raise UnpredictableLayer(
                self.name,
                "it mixes channels of two tensors, of which later layers use some in different"
                " ways; this is not supported",
            )


def _runs(x: FeatureMap, size: int) -> Iterator[tuple[Group, ...]]:
    """Yield the parts of groups of channels: whole groups of one tensor, or a single mixed one."""
    start, n = 0, x.n_channels
    while start < n:
        first = x.slice(start, n).groups[0].size
        stop = start + max(first // size, 1) * size
        yield x.slice(start, stop).groups
        start = stop


def _merged(g: FeatureMap) -> list[Group]:
    """Return the groups, neighbours of one distribution as one."""
    groups: list[Group] = []
    for group in g.groups:
        if groups and groups[-1].channel is group.channel:
            group = Group(groups.pop().size + group.size, group.channel)
        groups.append(group)
    return groups


@dataclass(frozen=True)
class _SampledGroups:
    """Groups of samples, with every sample of one part once.

    Attributes
    ----------
    sizes
        Channels of each part in a group.
    samples
        Number of samples of each part.
    eps
        Constant added to the variance.
    """

    sizes: tuple[int, ...]
    samples: int
    eps: float

    def forward(self, channels: Channels, of: int) -> Channel:
        """Return the normalized channels of one part."""
        x = channels[of]

        def draw() -> Samples:
            if x.is_known:
                return F.group_norm(x.samples, x.samples.shape[1] // self.sizes[0], eps=self.eps)
            return self._own(self._function(self._gather(channels, of)), of)

        return Channel(
            x.shape,
            draw,
            sources=NO_SOURCES.union(*(c.sources for c in channels)),
            is_known=x.is_known,
            is_cheap=True,
            origin=x.origin,
        )

    def backward(self, channels: Channels, received: Channels, of: int) -> Channel:
        """Return the cotangent of one part, given those of all parts of the output."""

        def draw() -> Samples:
            x, g = self._gather(channels, of), self._gather(received, of)
            with torch.enable_grad():
                x.requires_grad_()
                (result,) = vjp(self._function(x), [x], g)
            return self._own(result, of)

        return Channel(
            channels[of].shape,
            draw,
            sources=NO_SOURCES.union(*(c.sources for c in (*channels, *received))),
            linear_in=NO_SOURCES.union(*(c.linear_in for c in received)),
            is_cheap=True,
        )

    def backward_of_pieces(self, x: Channel, pieces: Sequence[Group], of: int) -> Channel:
        """Return the cotangent of some channels of one part, given those of all its channels.

        The same samples form a group as forward. They take turns in the places of the group.
        """
        sizes, (size,) = [piece.size for piece in pieces], self.sizes
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        own = torch.arange(starts[of], starts[of] + sizes[of])

        def draw() -> Samples:
            samples = self._gather([x], 0)
            received = [self._gather([piece.channel], 0) for piece in pieces]
            result = torch.empty_like(samples)
            for turn in range(0, size, sizes[of]):
                order = (torch.arange(size) + turn) % size
                places = zip(received, starts, sizes, strict=True)
                g = torch.cat([y[:, :, order[i : i + n]] for y, i, n in places], 2)
                with torch.enable_grad():
                    inputs = samples[:, :, order].requires_grad_()
                    (gradient,) = vjp(self._function(inputs), [inputs], g)
                result[:, :, order[own]] = gradient[:, :, own]
            return self._own(result, 0)

        channels = [x, *(piece.channel for piece in pieces)]
        return Channel(
            x.shape,
            draw,
            sources=NO_SOURCES.union(*(c.sources for c in channels)),
            linear_in=NO_SOURCES.union(*(piece.channel.linear_in for piece in pieces)),
        )

    def _function(self, x: Tensor) -> Tensor:
        """Normalize groups [image, group, channel, *position]."""
        n_groups = x.shape[1]
        return F.group_norm(x.flatten(1, 2), n_groups, eps=self.eps).unflatten(1, (n_groups, -1))

    def _gather(self, channels: Channels, of: int) -> Tensor:
        """Return groups [image, group, channel, *position]."""
        n_groups = -(-self.samples // self.sizes[of])
        gathered = []
        for part, (channel, size) in enumerate(zip(channels, self.sizes, strict=True)):
            x = channel.samples
            index = self._first(part) + torch.arange(n_groups * size)
            gathered.append(x[:, index % x.shape[1]].unflatten(1, (n_groups, size)))
        return torch.cat(gathered, dim=2)

    def _own(self, groups: Tensor, of: int) -> Samples:
        """Return the samples of one part in their order."""
        start = sum(self.sizes[:of])
        own = groups[:, :, start : start + self.sizes[of]].flatten(1, 2)
        return own[:, : self.samples].roll(self._first(of), dims=1)

    def _first(self, part: int) -> int:
        """Return a part's first sample.

        Parts begin at different samples, because equal samples of two tensors may be dependent.
        """
        return part * self.samples // len(self.sizes)


@dataclass(frozen=True)
class Neighbourhood:
    """A function of a window of neighbouring channels, such as local response normalization."""

    name: str
    function: Callable[[Samples], Samples]

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        x = self._only(inputs[0])
        channel = Channel(
            x.shape, lambda: self.function(x.samples), sources=x.sources, is_known=x.is_known
        )
        return FeatureMap((Group(inputs[0].n_channels, channel),))

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        x, received = self._only(inputs[0]), self._only(g)

        def draw() -> Samples:
            with torch.enable_grad():
                samples = x.samples.detach().requires_grad_()
                return vjp(self.function(samples), [samples], received.samples)[0]

        sources = x.sources | received.sources
        channel = Channel(x.shape, draw, sources=sources, linear_in=received.linear_in)
        return [FeatureMap((Group(g.n_channels, channel),))]

    def _only(self, x: FeatureMap) -> Channel:
        if len(x.groups) > 1:
            raise UnpredictableLayer(
                self.name, "it combines channels of different tensors, which is not supported"
            )
        return x.groups[0].channel
