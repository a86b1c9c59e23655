"""A tensor of the graph: groups of channels with one distribution each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fanin.theory.graph.channel import Channel, Pairs, Samples


@dataclass(frozen=True)
class Group:
    """Neighbouring channels with the same distribution."""

    size: int
    channel: Channel

    def part(self, start: int, stop: int) -> Group:
        """Return some of the channels."""
        if not self.channel.is_known or (start, stop) == (0, self.size):
            return Group(stop - start, self.channel)
        whole = self.channel

        def draw() -> Samples:
            return whole.samples[:, start:stop] if whole.samples.shape[1] > 1 else whole.samples

        return Group(stop - start, Channel(whole.shape, draw, is_known=True))


@dataclass(frozen=True)
class FeatureMap:
    """Distribution of a tensor: its channels in order, whatever the tensor's layout."""

    groups: tuple[Group, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of images, then the shape of a map."""
        return self.groups[0].channel.shape

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return sum(group.size for group in self.groups)

    def map(self, function: Callable[[Channel], Channel]) -> FeatureMap:
        """Apply a function to the distribution of each group."""
        return FeatureMap(tuple(Group(g.size, function(g.channel)) for g in self.groups))

    @property
    def is_known(self) -> bool:
        """True if no random weights affect the tensor."""
        return all(group.channel.is_known for group in self.groups)

    def summary(self, moments: bool) -> FeatureMap:
        """Return the tensor without samples and covariances (`Channel.summary`)."""
        return self.map(lambda channel: channel.summary(moments))

    def moved(self, places: int) -> FeatureMap:
        """Return the channels after they were moved to other places (`Channel.moved`)."""
        return self.map(lambda channel: channel.moved(places))

    def slice(self, start: int, stop: int) -> FeatureMap:
        """Return the channels from `start` to `stop`."""
        parts, first = [], 0
        for group in self.groups:
            low, high = max(start - first, 0), min(stop - first, group.size)
            if low < high:
                parts.append(group.part(low, high))
            first += group.size
        return FeatureMap(tuple(parts))

    def average(self, read: Callable[[Channel], Tensor]) -> Tensor:
        """Average a moment over all channels."""
        total = sum(group.size * read(group.channel) for group in self.groups)
        assert isinstance(total, Tensor)
        return total / self.n_channels

    @property
    def products(self) -> Pairs:
        """E[x(p) x(p')], averaged over the channels."""
        return self.average(lambda channel: channel.products)

    @property
    def m2(self) -> Tensor:
        """E[x(p)^2], averaged over the channels."""
        return self.average(lambda channel: channel.m2)

    @property
    def mean(self) -> Tensor:
        """E[x(p)], averaged over the channels."""
        return self.average(lambda channel: channel.mean)


def aligned(maps: Sequence[FeatureMap]) -> list[FeatureMap]:
    """Split the groups of several tensors at the same channels.

    A tensor with one channel is broadcast. Known channels are split into single ones where another
    tensor's channels are samples, because each of them then has its own distribution.
    """
    n = max(x.n_channels for x in maps)
    maps = [_repeat_channel(x, n) for x in maps]
    ends = sorted({end for x in maps for end in _ends(x)})
    split = [_split(x, ends) for x in maps]
    mixed = {
        i
        for i in range(len(ends))
        if len({x.groups[i].channel.is_known for x in split}) > 1
        and any(x.groups[i].channel.is_known and x.groups[i].size > 1 for x in split)
    }
    if not mixed:
        return split
    starts = [0, *ends[:-1]]
    inner = [c for i in mixed for c in range(starts[i] + 1, ends[i])]
    return [_split(x, sorted({*ends, *inner})) for x in split]


def _repeat_channel(x: FeatureMap, n: int) -> FeatureMap:
    if x.n_channels == n:
        return x
    (group,) = x.groups
    return FeatureMap((Group(n, group.channel),))


def _ends(x: FeatureMap) -> Iterable[int]:
    total = 0
    for group in x.groups:
        total += group.size
        yield total


def _split(x: FeatureMap, ends: Sequence[int]) -> FeatureMap:
    starts = [0, *ends[:-1]]
    parts = [x.slice(start, end).groups for start, end in zip(starts, ends, strict=True)]
    return FeatureMap(tuple(group for part in parts for group in part))


def join(maps: Sequence[FeatureMap]) -> FeatureMap:
    """Concatenate tensors along their channels."""
    groups: list[Group] = []
    start = 0
    for x in maps:
        groups += x.moved(start).groups
        start += x.n_channels
    return FeatureMap(tuple(groups))


def identity_maps(shape: Sequence[int]) -> Samples:
    """Return one map per point, 1 at this point: a linear function of them is its matrix."""
    points = int(torch.Size(shape).numel())
    return torch.eye(points, dtype=torch.float64).unflatten(1, tuple(shape)).movedim(0, 1)
