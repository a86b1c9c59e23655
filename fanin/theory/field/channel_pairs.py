"""Products of the cotangents of two different channels of a layer, for grouped convolutions.

All channels that one group of the next layer reads share a part of their cotangents, S and theta
(defined in `SharedCotangent`). Two channels of one group of a layer may be read by different groups
of the next layer, and two channels of different groups by the same group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.seeds import make_generator
from fanin.theory.field.sampling import eigen_root, whitened
from fanin.theory.field.state import (
    LayerWeights,
    Pairs,
    SharedCotangent,
    group_overlaps,
    select_fields,
)

FIELDS_PER_DRAW = 8  # fields that share one sample of the shared cotangent
FIELDS_PER_READER = 4  # of them, fields that the same group of the next layer reads
Samples = Float[Tensor, "field sample point"]
StreamKey = tuple[object, ...]
SharedPart = tuple[Tensor, Tensor]
"""Factors of S and of theta in a mean over channels, [image, particle, group, point]."""


@dataclass(frozen=True)
class ChannelPairs:
    """Probabilities that one group of the next layer reads two different channels.

    Attributes
    ----------
    groups
        Groups of this layer.
    within, across
        The probability for two channels of one group and of two groups of this layer.

    Examples
    --------
    >>> ChannelPairs.of_sizes(channels=8, groups=2, next_groups=4)
    ChannelPairs(groups=2, within=0.3333333333333333, across=0.0)
    """

    groups: int
    within: float = 1.0
    across: float = 1.0

    @classmethod
    def of(cls, weights: LayerWeights, next_weights: LayerWeights) -> ChannelPairs:
        """Return the probabilities for two consecutive layers."""
        return cls.of_sizes(weights.out_channels, weights.groups, next_weights.groups)

    @classmethod
    def of_sizes(cls, channels: int, groups: int, next_groups: int) -> ChannelPairs:
        """Return the probabilities for contiguous groups of equal sizes."""
        if next_groups == 1:
            return cls(groups)
        common = float((channels * group_overlaps(groups, next_groups)).square().sum())
        within = channels**2 / groups
        return cls(
            groups,
            # A group of one channel has no pairs; its means over pairs are those of the channel.
            (common - channels) / (within - channels) if groups < channels else 1.0,
            (channels**2 / next_groups - common) / (channels**2 - within) if groups > 1 else 1.0,
        )

    def mean_across(self, of_mean: Pairs, within: Pairs) -> Pairs:
        """Average a_j b_k over pairs of different groups j and k.

        Parameters
        ----------
        of_mean
            The product of the means of a and b over groups.
        within
            The products a_j b_j of each group.
        """
        return (self.groups * of_mean - within.mean(2, True)) / (self.groups - 1)

    def average(self, same: SharedCotangent, different: SharedCotangent | None) -> SharedCotangent:
        """Average over pairs of channels.

        Parameters
        ----------
        same, different
            Moments of two channels that the same group, or different groups, of the next layer
            read. `across` refers to groups of this layer.
        """
        if different is None:
            return same
        across = None
        if same.across is not None and different.across is not None:
            across = _interpolate(different.across, same.across, self.across)
        return replace(_interpolate(different, same, self.within), across=across)

    def elementwise(
        self, shared: SharedCotangent, mean: SharedPart, mean_derivative: SharedPart
    ) -> SharedCotangent:
        """Propagate the shared part, S and theta, back through elementwise modules.

        Parameters
        ----------
        mean, mean_derivative
            Coefficients of S and of theta in the mean over channels of the cotangent at the
            pre-activations, and in that of its derivative.
        """
        same = self._products(replace(shared, across=None), mean, mean_derivative)
        if shared.across is None:
            return same
        return self.average(same, self._products(shared.across, mean, mean_derivative))

    def _products(
        self, shared: SharedCotangent, mean: SharedPart, mean_derivative: SharedPart
    ) -> SharedCotangent:
        within = _bilinear(shared, mean, mean_derivative)
        if self.groups == 1:
            return within
        shared = shared.map(_mean_over_groups)
        of_mean = _bilinear(
            shared,
            (_mean_over_groups(mean[0]), _mean_over_groups(mean[1])),
            (_mean_over_groups(mean_derivative[0]), _mean_over_groups(mean_derivative[1])),
        )
        of_pairs = _bilinear(shared, mean, mean_derivative)
        return replace(within, across=_combine(self.mean_across, of_mean, of_pairs))

    def sampled(
        self, cotangent: Samples, derivative: Samples, groups: int, *, one_reader: bool
    ) -> SharedCotangent:
        """Average over pairs of samples that share a sample of S and theta (`shared_samples`).

        Parameters
        ----------
        cotangent, derivative
            Samples of the cotangent at the pre-activations and of its derivative. The groups of
            each particle are consecutive fields.
        groups
            Length of the axis of groups.
        one_reader
            True if the next layer has one group.

        Returns
        -------
        SharedCotangent
            Moments [particle, 1, group, point, point].
        """
        n_particles = cotangent.shape[0] // groups

        def moments(size: int, excluded: int) -> SharedCotangent:
            def products(d: Samples, derivative: Samples) -> SharedCotangent:
                def product(a: Samples, b: Samples) -> Pairs:
                    pairs = _pair_products(a, b, size, excluded)
                    return pairs.reshape(n_particles, 1, -1, *pairs.shape[1:])

                return SharedCotangent(
                    product(d, d), product(d, derivative), product(derivative, derivative)
                )

            within = products(cotangent, derivative)
            if self.groups == 1:
                return within
            of_mean = products(
                cotangent.unflatten(0, (-1, groups)).mean(1),
                derivative.unflatten(0, (-1, groups)).mean(1),
            )
            return replace(within, across=_combine(self.mean_across, of_mean, within))

        if one_reader:
            return moments(FIELDS_PER_DRAW, 1)
        return self.average(
            moments(FIELDS_PER_READER, 1), moments(FIELDS_PER_DRAW, FIELDS_PER_READER)
        )


def _pair_products(a: Samples, b: Samples, size: int, excluded: int) -> Pairs:
    """Average a_j b_k over pairs of samples j and k from the same block of `size` samples.

    Pairs from the same smaller block of `excluded` samples are left out.
    """

    def block_sums(x: Samples, n: int) -> Samples:
        return x if n == 1 else x.unflatten(1, (-1, n)).sum(2)

    pairs = block_sums(a, size).mT @ block_sums(b, size)
    pairs = pairs - block_sums(a, excluded).mT @ block_sums(b, excluded)
    return pairs / (a.shape[1] * (size - excluded))


def shared_samples(
    shared: SharedCotangent, field_shape: tuple[int, int, int], n_samples: int, key: StreamKey
) -> Callable[[slice], Samples]:
    """Return a function that samples S and theta (see `SharedCotangent`) for some fields.

    `FIELDS_PER_DRAW` consecutive samples share one sample of the part that is common to all groups
    of the next layer, and `FIELDS_PER_READER` of them are read by the same group.
    """
    covariance = shared.joint_covariance
    if shared.across is None:
        return _sampler(covariance, field_shape, n_samples, FIELDS_PER_DRAW, key)
    common = shared.across.joint_covariance
    samplers = (
        _sampler(common, field_shape, n_samples, FIELDS_PER_DRAW, key),
        _sampler(covariance - common, field_shape, n_samples, FIELDS_PER_READER, (*key, "readers")),
    )
    return lambda index: samplers[0](index) + samplers[1](index)


def _sampler(
    covariance: Pairs,
    field_shape: tuple[int, int, int],
    n_samples: int,
    fields_per_draw: int,
    key: StreamKey,
) -> Callable[[slice], Samples]:
    size = covariance.shape[-1]
    n_draws = n_samples // fields_per_draw
    # The directions with the largest variance get exact moments.
    n_leading = min(size, n_draws // 4)
    leading = whitened(n_draws, n_leading, *key, "shared")[:n_draws]
    stream = make_generator("shared", *key)
    trailing = torch.randn(n_draws, size - n_leading, generator=stream, dtype=torch.float64)
    normals, root = torch.cat([leading, trailing], -1), eigen_root(covariance)

    def sample(index: slice) -> Samples:
        shared = normals @ select_fields(root, field_shape, index).mT
        return shared.repeat_interleave(fields_per_draw, 1)

    return sample


def concatenate(parts: Sequence[SharedCotangent], n_images: int) -> SharedCotangent:
    """Join results of `ChannelPairs.sampled` to [image, particle, group, point, point]."""

    def join(moments: Sequence[Pairs]) -> Pairs:
        return torch.cat(list(moments)).unflatten(0, (n_images, -1)).squeeze(2)

    across = [part.across for part in parts if part.across is not None]
    return SharedCotangent(
        join([part.additive for part in parts]),
        join([part.cross for part in parts]),
        join([part.response for part in parts]),
        concatenate(across, n_images) if across else None,
    )


def _combine(
    function: Callable[[Pairs, Pairs], Pairs], a: SharedCotangent, b: SharedCotangent
) -> SharedCotangent:
    return SharedCotangent(
        function(a.additive, b.additive),
        function(a.cross, b.cross),
        function(a.response, b.response),
    )


def _interpolate(a: SharedCotangent, b: SharedCotangent, share: float) -> SharedCotangent:
    return _combine(lambda x, y: (1 - share) * x + share * y, a, b)


def _mean_over_groups(x: Tensor) -> Tensor:
    return x.mean(2, True)


def _bilinear(
    shared: SharedCotangent, mean: SharedPart, mean_derivative: SharedPart
) -> SharedCotangent:
    def from_left(row: SharedPart) -> tuple[Pairs, Pairs]:
        row_s, row_theta = (x[..., :, None] for x in row)
        return (
            torch.addcmul(row_s * shared.additive, row_theta, shared.cross.mT),
            torch.addcmul(row_s * shared.cross, row_theta, shared.response),
        )

    def from_right(pairs: tuple[Pairs, Pairs], column: SharedPart) -> Pairs:
        column_s, column_theta = (x[..., None, :] for x in column)
        return torch.addcmul(pairs[0] * column_s, pairs[1], column_theta)

    rows = from_left(mean)
    additive, cross = from_right(rows, mean), from_right(rows, mean_derivative)
    return SharedCotangent(additive, cross, from_right(from_left(mean_derivative), mean_derivative))
