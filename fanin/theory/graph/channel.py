"""The distribution of one channel of a tensor, over the points of its map.

The points of a field are the positions of all images that are predicted jointly. Channels of a wide
layer are independent samples of one distribution. A `Channel` holds its second moments, in closed
form where one exists, and samples. Sample s is the same channel in all tensors between two weight
layers, so the samples of a residual branch and of its shortcut can be added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.seeds import make_generator
from fanin.theory.field.sampling import factor, whitened

Samples = Float[Tensor, "image sample *position"]
Pairs = Float[Tensor, "point point"]
Sources = frozenset[int]
"""Numbers of the independent Gaussian fields (one per weight layer and direction) that matter."""
NO_SOURCES: Sources = frozenset()
SAMPLES_PER_DIMENSION = 1.25  # that stable whitening needs
MAX_SAMPLES = 2**15
MAX_NUMBERS = 2**18  # samples times points of a field: 2 MB


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian field with the same mean at all points."""

    cov: Pairs
    mean: float = 0.0


class Channel:
    """Distribution of a channel's field, forward (values) or backward (cotangents).

    Everything is computed when it is first read.

    Parameters
    ----------
    shape
        Number of images, then the shape of a map.
    draw
        Function that returns samples [image, sample, *position].
    products
        Function that returns E[x(p) x(p')] for all pairs of points; None takes them from samples.
    mean
        Function that returns E[x(p)]; None takes it from samples.
    gaussian
        The distribution, if it is Gaussian and its covariance is known.
    sources
        Independent Gaussian fields that it depends on.
    linear_in
        Independent Gaussian fields of mean 0 such that each of its terms is linear in one of them.
        Two cotangents without a common field are uncorrelated.
    is_known
        True if the samples are the channels themselves (an image's, or constants).
    origin
        The weight layer's field from which a linear map or a normalization makes this one, point by
        point; its samples can still be made uncorrelated with others.
    """

    def __init__(
        self,
        shape: Sequence[int],
        draw: Callable[[], Samples],
        *,
        products: Callable[[], Pairs] | None = None,
        mean: Callable[[], Tensor] | None = None,
        gaussian: Gaussian | None = None,
        sources: Sources = NO_SOURCES,
        linear_in: Sources = NO_SOURCES,
        is_known: bool = False,
        origin: FreshChannel | None = None,
    ) -> None:
        self._origin = origin
        self.shape = tuple(shape)
        self.gaussian = gaussian
        self.sources = sources
        self.linear_in = linear_in
        self.is_known = is_known
        self._draw, self._products, self._mean = draw, products, mean

    @property
    def origin(self) -> FreshChannel | None:
        """The weight layer's field from which it is made, if any."""
        return self._origin

    @cached_property
    def samples(self) -> Samples:
        """Samples of the field; known channels have one sample each."""
        return self._sample()

    def _sample(self) -> Samples:
        return self._draw()

    @property
    def sample_points(self) -> Float[Tensor, "sample point"]:
        """The samples, one row each."""
        return self.samples.movedim(1, 0).flatten(1)

    @cached_property
    def products(self) -> Pairs:
        """E[x(p) x(p')] for all pairs of points."""
        if self.gaussian is not None:
            return self.gaussian.cov + self.gaussian.mean**2
        if self._products is not None:
            return self._products()
        x = self.sample_points
        return x.mT @ x / len(x)

    @cached_property
    def mean(self) -> Float[Tensor, " point"]:
        """E[x(p)]."""
        if self.gaussian is not None:
            return torch.full((self.points,), self.gaussian.mean, dtype=torch.float64)
        return self._mean() if self._mean is not None else self.sample_points.mean(0)

    @property
    def points(self) -> int:
        """Number of points of all images."""
        return int(torch.Size(self.shape).numel())

    @property
    def m2(self) -> Float[Tensor, " point"]:
        """E[x(p)^2]."""
        return self.products.diagonal().clamp(min=0)

    @property
    def is_closed(self) -> bool:
        """True if second moments need no samples."""
        return self.gaussian is not None or self._products is not None

    def is_independent_of(self, other: Channel) -> bool:
        """Return True if no Gaussian field affects both."""
        return not self.sources & other.sources


class FreshChannel(Channel):
    """A Gaussian field that is independent of all earlier ones: what a weight layer makes.

    Its samples have exactly the given covariance, and no correlation with the samples of the
    channels passed to `decorrelate_from`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        gaussian: Gaussian,
        source: int,
        samples: int,
        key: tuple[object, ...],
    ) -> None:
        # No reference to itself, so that its memory is free as soon as it is not used.
        super().__init__(
            shape,
            _never_called,
            gaussian=gaussian,
            sources=frozenset({source}),
            linear_in=frozenset({source}),
        )
        self._n_samples, self._key = samples, key
        self._others: list[Channel] = []

    def decorrelate_from(self, other: Channel) -> None:
        """Make the samples uncorrelated with those of a channel to which they will be added."""
        can_change = "samples" not in self.__dict__ and not other.is_known
        if can_change and not self.sources & other.sources:
            self._others.append(other)

    @property
    def origin(self) -> FreshChannel:
        """The field itself."""
        return self

    def _sample(self) -> Samples:
        assert self.gaussian is not None
        root = factor(self.gaussian.cov)
        z = _decorrelated(self._n_samples, root.shape[1], self._others, self._key)
        fields = z @ root.mT + self.gaussian.mean
        return fields.unflatten(1, self.shape).movedim(0, 1)


def _never_called() -> Samples:
    raise NotImplementedError


def decorrelate(x: Channel, y: Channel) -> None:
    """Make the samples of two channels that will be added uncorrelated, if one is not drawn yet."""
    for fresh, other in ((y.origin, x), (x.origin, y)):
        if fresh is not None and not fresh.sources & other.sources:
            fresh.decorrelate_from(other)
            return


def samples_for(points: int) -> int:
    """Return a number of samples for a graph whose largest field has this many points.

    It is large enough to whiten a field and to make it uncorrelated with another one of the same
    size. Small fields get more samples.
    """
    needed = 2 * (int(SAMPLES_PER_DIMENSION * points) + 8)
    return max(needed, min(MAX_SAMPLES, MAX_NUMBERS // points))


def _decorrelated(
    samples: int, dimensions: int, others: Sequence[Channel], key: tuple[object, ...]
) -> Float[Tensor, "sample dimension"]:
    """Draw standard normals with an exact identity as second-moment matrix, and mean 0."""
    columns = [x.sample_points for x in others if x.samples.shape[1] == samples]
    used = sum(x.shape[1] for x in columns) + 1
    if not columns or samples < SAMPLES_PER_DIMENSION * dimensions + used:
        return whitened(samples, dimensions, *key)[:samples]
    stream = make_generator("graph", *key)
    z = torch.randn(samples, dimensions, generator=stream, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([torch.ones(samples, 1, dtype=torch.float64), *columns], 1))[
        0
    ]
    z -= basis @ (basis.mT @ z)
    root = torch.linalg.cholesky(z.mT @ z / samples)
    return torch.linalg.solve_triangular(root, z.mT, upper=False).mT


def known_channels(values: Float[Tensor, "image channel *position"]) -> Channel:
    """Return channels whose values are known, such as an image's."""
    x = values.detach().double()
    return Channel((len(x), *x.shape[2:]), lambda: x, is_known=True)
