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
from jaxtyping import Float, Int
from torch import Tensor

from fanin.seeds import make_generator
from fanin.theory.field.sampling import antithetic, factor, float32_products, whitened

Samples = Float[Tensor, "image sample *position"]
Pairs = Float[Tensor, "point point"]
Sources = frozenset[tuple[int, int]]
"""Independent Gaussian fields that matter: a number (one per weight layer and direction), and how
many places the field's channels were moved (`Channel.moved`)."""
NO_SOURCES: Sources = frozenset()
SAMPLES_PER_DIMENSION = 1.25  # that stable whitening needs
MAX_SAMPLES = 2**15
MAX_NUMBERS = 2**18  # samples times points of a field: 2 MB
MAX_WHITENED_POINTS = 1024  # of larger fields, samples have the exact variances only
SAMPLES_OF_LARGE_FIELDS = 4096
LARGE = 2**22  # numbers of a field from which samples are float32, and recomputed if that is cheap
FLOAT32_RANGE = 1e30
SAME = 1e-9  # mean squared difference of points that are equal up to rounding, in variances


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
    is_cheap
        True if `draw` is fast, so that many samples are drawn again rather than stored.
    origin
        The weight layer's field from which a linear map or a normalization makes this one, point by
        point; its samples can still be made uncorrelated with others.
    """

    def __init__(
        self,
        shape: Sequence[int],
        draw: Callable[[], Samples] | None,
        *,
        products: Callable[[], Pairs] | None = None,
        mean: Callable[[], Tensor] | None = None,
        gaussian: Gaussian | None = None,
        sources: Sources = NO_SOURCES,
        linear_in: Sources = NO_SOURCES,
        is_known: bool = False,
        is_cheap: bool = False,
        origin: FreshChannel | None = None,
    ) -> None:
        self._origin = origin
        self.shape = tuple(shape)
        self.gaussian = gaussian
        self.sources = sources
        self.linear_in = linear_in
        self.is_known = is_known
        self._draw = draw
        self._products, self._mean = products, mean
        self._is_cheap = is_cheap
        self._stored: Samples | None = None

    @property
    def origin(self) -> FreshChannel | None:
        """The weight layer's field from which it is made, if any."""
        return self._origin

    @property
    def samples(self) -> Samples:
        """Samples of the field, in float64; known channels have one sample each."""
        if self._stored is None:
            drawn = self._sample()
            if drawn.numel() > LARGE and self._is_cheap:
                return drawn
            self._stored = _compressed(drawn)
            self._draw = None  # frees what it refers to
        return self._stored if self._stored.dtype == torch.bool else self._stored.double()

    def _sample(self) -> Samples:
        assert self._draw is not None
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
        if x.numel() > LARGE and not self.is_known:
            return float32_products(x, x)
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

    @cached_property
    def m2(self) -> Float[Tensor, " point"]:
        """E[x(p)^2]."""
        if self.gaussian is not None:
            return (self.gaussian.cov.diagonal() + self.gaussian.mean**2).clamp(min=0)
        if self.is_closed or "products" in self.__dict__:
            return self.products.diagonal().clamp(min=0)
        return self.sample_points.square().mean(0)

    @property
    def is_closed(self) -> bool:
        """True if second moments need no samples."""
        return self.gaussian is not None or self._products is not None

    def moved(self, places: int) -> Channel:
        """Return the channels after they were moved to other places of a tensor.

        Operations on two tensors combine channels of the same place. Of one field, two channels
        that come from different places are independent.
        """
        if places == 0 or self.is_known:
            return self
        return Channel(
            self.shape,
            lambda: self.samples.roll(places, dims=1),
            products=(lambda: self.products) if self.is_closed else None,
            mean=lambda: self.mean,
            gaussian=self.gaussian,
            sources=_moved(self.sources, places),
            linear_in=_moved(self.linear_in, places),
            is_cheap=True,
        )

    def summary(self, moments: bool) -> Channel:
        """Return a channel without samples and covariances, which take memory.

        It has the second moment and the mean at each point if `moments` is True.
        """
        channel = Channel(
            self.shape,
            _no_samples,
            products=_no_samples if self.is_closed else None,
            is_known=self.is_known,
        )
        if moments:
            channel.__dict__ |= {"m2": self.m2.clone(), "mean": self.mean.clone()}
        return channel

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
            None,
            gaussian=gaussian,
            sources=frozenset({(source, 0)}),
            linear_in=frozenset({(source, 0)}),
        )
        self._n_samples, self._key = samples, key
        self._others: list[Channel] = []

    def decorrelate_from(self, other: Channel) -> None:
        """Make the samples uncorrelated with those of a channel to which they will be added."""
        can_change = self._stored is None and not other.is_known
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
        self._others = []
        fields = _times(z, root)
        if not is_whitened(*z.shape):
            fields *= torch.nan_to_num(root.square().sum(1) / fields.square().mean(0)).sqrt()
        fields = fields[:, _first_equal(self.gaussian.cov)] + self.gaussian.mean
        return fields.unflatten(1, self.shape).movedim(0, 1)


def _first_equal(cov: Pairs) -> Int[Tensor, " point"]:
    """Return for each point the first one whose value is always the same.

    Otherwise rounding would decide which of several equal values is a maximum.
    """
    var = cov.diagonal()
    distance = var[:, None] + var - 2 * cov  # E[(x - x')^2]
    return (distance <= SAME * var).to(torch.uint8).argmax(1)


def _moved(sources: Sources, places: int) -> Sources:
    return frozenset((number, place + places) for number, place in sources)


def _no_samples() -> Tensor:
    raise RuntimeError("this is a summary, without samples")


def _compressed(samples: Samples) -> Samples:
    """Return many samples in float32, unless they are outside its range."""
    if samples.numel() <= LARGE or samples.dtype != torch.float64:
        return samples
    size = float(samples.abs().max())
    return samples.float() if 1 / FLOAT32_RANGE < size < FLOAT32_RANGE else samples


def _times(z: Tensor, root: Tensor) -> Float[Tensor, "sample point"]:
    """Return z root^T, in float32 if there are many numbers."""
    size = root.abs().max()
    if z.numel() <= LARGE or size == 0:
        return z @ root.mT
    return (z.float() @ (root / size).float().mT).double() * size


def is_whitened(samples: int, dimensions: int) -> bool:
    return samples >= 2 * (int(SAMPLES_PER_DIMENSION * dimensions) + 8)


def decorrelate(x: Channel, y: Channel) -> None:
    """Make the samples of two channels that will be added uncorrelated, if one is not drawn yet."""
    for fresh, other in ((y.origin, x), (x.origin, y)):
        if fresh is not None and not fresh.sources & other.sources:
            fresh.decorrelate_from(other)
            return


def samples_for(points: int) -> int:
    """Return a number of samples for a graph whose largest field has this many points.

    It is large enough to whiten a field and to make it uncorrelated with another one of the same
    size, unless the field is large. Small fields get more samples.
    """
    if points > MAX_WHITENED_POINTS:
        return SAMPLES_OF_LARGE_FIELDS
    needed = 2 * (int(SAMPLES_PER_DIMENSION * points) + 8)
    return max(needed, min(MAX_SAMPLES, MAX_NUMBERS // points))


def _decorrelated(
    samples: int, dimensions: int, others: Sequence[Channel], key: tuple[object, ...]
) -> Float[Tensor, "sample dimension"]:
    """Draw standard normals of mean 0, with an exact identity as second-moment matrix.

    If the dimensions are too many for that, they are antithetic only.
    """
    if not is_whitened(samples, dimensions):
        order = torch.randperm(samples, generator=make_generator("order", *key))
        return antithetic(samples, dimensions, *key)[order]
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
