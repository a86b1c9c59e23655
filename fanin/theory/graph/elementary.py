"""Rules for operations that treat each channel alone: forward distributions and cotangents.

Each rule has a closed form where one exists and otherwise runs the operation on samples
(docs/appendix/derivations.md, section 9).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fanin.theory.elementwise import Function, derivative, vjp
from fanin.theory.field.forward import replace_diagonal
from fanin.theory.gaussian_pairs import PairExpectations, pair_expectations
from fanin.theory.graph.channel import NO_SOURCES, Channel, Gaussian, Samples, decorrelate
from fanin.theory.graph.feature_map import identity_maps

SampleFunction = Callable[[Samples], Samples]


@dataclass(frozen=True)
class Elementwise:
    """An elementwise function, such as an activation."""

    function: Function

    def forward(self, x: Channel) -> Channel:
        return Channel(
            x.shape,
            lambda: self.function(x.samples),
            products=None if x.gaussian is None else lambda: self._products(x),
            mean=None if x.gaussian is None else lambda: self._pair(x).mean(_var(x)),
            sources=x.sources,
            is_known=x.is_known,
            is_cheap=True,
        )

    def backward(self, x: Channel, g: Channel) -> Channel:
        closed = x.gaussian is not None and g.is_closed and g.is_independent_of(x)
        return Channel(
            x.shape,
            lambda: derivative(self.function, x.samples)[1] * g.samples,
            products=(lambda: self._slope_products(x) * g.products) if closed else None,
            sources=x.sources | g.sources,
            linear_in=g.linear_in,
            is_cheap=True,
        )

    def _pair(self, x: Channel) -> PairExpectations:
        assert x.gaussian is not None
        return _pairs(self.function, x.gaussian.mean)

    def _products(self, x: Channel) -> Tensor:
        assert x.gaussian is not None
        pair, var = self._pair(x), _var(x)
        return replace_diagonal(pair.covariance(x.gaussian.cov, var, var), pair.second_moment(var))

    def _slope_products(self, x: Channel) -> Tensor:
        assert x.gaussian is not None
        pair, var = self._pair(x), _var(x)
        return replace_diagonal(pair.slope_covariance(x.gaussian.cov, var, var), pair.slope_m2(var))


def _pairs(function: Function, mean: float) -> PairExpectations:
    return pair_expectations(function if mean == 0 else lambda u: function(u + mean))


def _var(x: Channel) -> Tensor:
    assert x.gaussian is not None
    return x.gaussian.cov.diagonal().clamp(min=0)


@dataclass(frozen=True)
class Linear:
    """A linear map of each channel, such as average pooling, padding or a slice of the positions.

    Attributes
    ----------
    function
        Function of samples [image, sample, *position] that may change the positions.
    """

    function: SampleFunction

    def forward(self, x: Channel) -> Channel:
        shape, gaussian = _output_shape(self.function, x.shape), None
        matrix = self._matrix_of(x.shape)
        if x.gaussian is not None:
            mean = x.mean @ matrix()
            if bool((mean == mean[0]).all()):
                gaussian = Gaussian(matrix().mT @ x.gaussian.cov @ matrix(), float(mean[0]))
        return Channel(
            shape,
            lambda: self.function(x.samples),
            products=(lambda: matrix().mT @ x.products @ matrix()) if x.is_closed else None,
            mean=lambda: x.mean @ matrix(),
            gaussian=gaussian,
            sources=x.sources,
            is_known=x.is_known,
            is_cheap=True,
        )

    def backward(self, x: Channel, g: Channel) -> Channel:
        matrix = self._matrix_of(x.shape)
        gaussian = None
        if g.gaussian is not None:
            gaussian = Gaussian(matrix() @ g.gaussian.cov @ matrix().mT)
        return Channel(
            x.shape,
            lambda: self._transposed(x.shape, g.samples),
            products=(lambda: matrix() @ g.products @ matrix().mT) if g.is_closed else None,
            gaussian=gaussian,
            sources=g.sources,
            linear_in=g.linear_in,
            is_cheap=True,
        )

    def _matrix_of(self, shape: tuple[int, ...]) -> Callable[[], Tensor]:
        cache: list[Tensor] = []

        def matrix() -> Tensor:
            if not cache:
                cache.append(self.function(identity_maps(shape)).movedim(1, 0).flatten(1))
            return cache[0]

        return matrix

    def _transposed(self, shape: tuple[int, ...], g: Samples) -> Samples:
        with torch.enable_grad():
            x = torch.zeros(
                shape[0], g.shape[1], *shape[1:], dtype=torch.float64, requires_grad=True
            )
            return vjp(self.function(x), [x], g)[0]


@dataclass(frozen=True)
class Mixing:
    """Any function of one channel, run on samples: max pooling, batch normalization."""

    function: SampleFunction

    def forward(self, x: Channel) -> Channel:
        shape = _output_shape(self.function, x.shape)
        return Channel(
            shape,
            lambda: self.function(x.samples),
            sources=x.sources,
            is_known=x.is_known,
            is_cheap=True,
            origin=x.origin if shape == x.shape else None,
        )

    def backward(self, x: Channel, g: Channel) -> Channel:
        def draw() -> Samples:
            with torch.enable_grad():
                inputs = x.samples.detach().requires_grad_()
                return vjp(self.function(inputs), [inputs], g.samples)[0]

        return Channel(
            x.shape,
            draw,
            sources=x.sources | g.sources,
            linear_in=g.linear_in,
            is_cheap=True,
        )


@dataclass(frozen=True)
class Scale:
    """Multiplication by a constant, then addition of a constant."""

    factor: float
    shift: float = 0.0

    def forward(self, x: Channel) -> Channel:
        a, b = self.factor, self.shift
        gaussian = x.gaussian and Gaussian(a**2 * x.gaussian.cov, a * x.gaussian.mean + b)

        def products() -> Tensor:
            mean = a * b * x.mean
            return a**2 * x.products + mean[:, None] + mean + b**2

        return Channel(
            x.shape,
            lambda: a * x.samples + b,
            products=products if x.is_closed else None,
            mean=lambda: a * x.mean + b,
            gaussian=gaussian,
            sources=x.sources,
            is_known=x.is_known,
            is_cheap=True,
            origin=x.origin,
        )

    def backward(self, x: Channel, g: Channel) -> Channel:
        a = self.factor
        return Channel(
            x.shape,
            lambda: a * g.samples,
            products=(lambda: a**2 * g.products) if g.is_closed else None,
            gaussian=g.gaussian and Gaussian(a**2 * g.gaussian.cov),
            sources=g.sources,
            linear_in=g.linear_in,
            is_cheap=True,
        )


ChannelRule = Elementwise | Linear | Mixing | Scale


def _output_shape(function: SampleFunction, shape: tuple[int, ...]) -> tuple[int, ...]:
    out = function(torch.zeros(shape[0], 1, *shape[1:], dtype=torch.float64))
    return (len(out), *out.shape[2:])


def add(x: Channel, y: Channel) -> Channel:
    """Return the distribution of x + y, sample by sample, broadcast over positions."""
    decorrelate(x, y)
    independent = x.is_independent_of(y) and x.shape == y.shape
    gaussian = None
    if independent and x.gaussian is not None and y.gaussian is not None:
        gaussian = Gaussian(x.gaussian.cov + y.gaussian.cov, x.gaussian.mean + y.gaussian.mean)

    def products() -> Tensor:
        cross = x.mean[:, None] * y.mean
        return x.products + y.products + cross + cross.mT

    return Channel(
        np.broadcast_shapes(x.shape, y.shape),
        lambda: x.samples + y.samples,
        products=products if independent and x.is_closed and y.is_closed else None,
        mean=(lambda: x.mean + y.mean) if x.shape == y.shape else None,
        gaussian=gaussian,
        sources=x.sources | y.sources,
        is_known=x.is_known and y.is_known,
    )


def add_cotangents(x: Channel, y: Channel) -> Channel:
    """Return the distribution of the sum of two cotangents of one tensor."""
    decorrelate(x, y)
    uncorrelated = not x.linear_in & y.linear_in
    closed = x.is_closed and y.is_closed and uncorrelated
    gaussian = None
    if uncorrelated and x.gaussian is not None and y.gaussian is not None:
        gaussian = Gaussian(x.gaussian.cov + y.gaussian.cov)
    return Channel(
        x.shape,
        lambda: x.samples + y.samples,
        products=(lambda: x.products + y.products) if closed else None,
        gaussian=gaussian,
        sources=x.sources | y.sources,
        linear_in=x.linear_in | y.linear_in,
    )


def multiply(x: Channel, y: Channel) -> Channel:
    """Return the distribution of x * y, sample by sample, broadcast over positions."""
    independent = x.is_independent_of(y) and x.shape == y.shape
    closed = independent and x.is_closed and y.is_closed
    return Channel(
        np.broadcast_shapes(x.shape, y.shape),
        lambda: x.samples * y.samples,
        products=(lambda: x.products * y.products) if closed else None,
        mean=(lambda: x.mean * y.mean) if independent else None,
        sources=x.sources | y.sources,
        is_known=x.is_known and y.is_known,
    )


def multiply_backward(x: Channel, y: Channel, g: Channel) -> Channel:
    """Return the cotangent of x, given that of x * y."""
    return Channel(
        x.shape,
        lambda: _summed_to(x.shape, g.samples * y.samples),
        sources=y.sources | g.sources,
        linear_in=g.linear_in,
    )


def broadcast_backward(x: Channel, g: Channel) -> Channel:
    """Return the cotangent of x, given that of x + y, where x may have fewer positions."""
    if x.shape == g.shape:
        return g
    return Channel(
        x.shape,
        lambda: _summed_to(x.shape, g.samples),
        sources=g.sources,
        linear_in=g.linear_in,
    )


def _summed_to(shape: tuple[int, ...], g: Samples) -> Samples:
    target = (shape[0], g.shape[1], *shape[1:])
    return g.sum_to_size(target)


PointFunction = Callable[[Sequence[Samples]], Samples]


def combine(function: PointFunction, inputs: Sequence[Channel]) -> Channel:
    """Return the distribution of an elementwise function of several tensors, from samples."""
    return Channel(
        tuple(torch.broadcast_shapes(*(x.shape for x in inputs))),
        lambda: function([x.samples for x in inputs]),
        sources=NO_SOURCES.union(*(x.sources for x in inputs)),
        is_known=all(x.is_known for x in inputs),
    )


def combine_backward(
    function: PointFunction, inputs: Sequence[Channel], of: int, g: Channel
) -> Channel:
    """Return the cotangent of one input of an elementwise function of several tensors."""
    shape = inputs[of].shape

    def draw() -> Samples:
        samples = [x.samples for x in inputs]
        count = max(x.shape[1] for x in (*samples, g.samples))
        samples[of] = samples[of].expand(shape[0], count, *shape[1:]).detach()
        with torch.enable_grad():
            samples[of].requires_grad_()
            return vjp(function(samples), [samples[of]], g.samples)[0]

    return Channel(
        shape,
        draw,
        sources=g.sources.union(*(x.sources for x in inputs)),
        linear_in=g.linear_in,
    )
