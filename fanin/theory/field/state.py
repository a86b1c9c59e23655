"""The state of the walk: what a weight layer is fed, what it makes, and what follows it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.elementwise import Function
from fanin.theory.field.axes import Pairs, Points, mixed, overlaps
from fanin.theory.field.cotangent import Cotangent
from fanin.theory.field.geometry import Taps
from fanin.theory.field.interlayer import Between, Pointwise

MOST_LOG = 350.0  # e^350 squares to what float64 just holds


@dataclass(frozen=True)
class Fed:
    """Moments, over channels, of what a weight layer is fed.

    Attributes
    ----------
    mean, m2
        E[x(p)] and E[x(p)^2].
    products
        E[x(p) x(p')], where the walk needs it.
    centred
        Cov[x(p), x(p')], where it was found without the cancellation of the other two.
    certain
        Whether the channels are known (an image's) rather than random (a wide layer's).
    log_scale
        The true x is e^log_scale times the one described here.
    """

    mean: Points
    m2: Points
    products: Pairs | None
    centred: Pairs | None = None
    certain: bool = False
    log_scale: float = 0.0

    def grouped(self, groups: int) -> Fed:
        """As the groups of a layer see it: the parts that feed one group are averaged."""
        parts = self.m2.shape[2]
        if parts == 1 or groups % parts == 0:
            return self
        share = groups * overlaps(groups, parts)
        products = None if self.products is None else mixed(share, self.products)
        mean, m2 = mixed(share, self.mean), mixed(share, self.m2)
        # Parts of different means are no one population: their spread comes from the products.
        return Fed(mean, m2, products, certain=self.certain, log_scale=self.log_scale)

    @property
    def covariance(self) -> Pairs:
        """Cov[x(p), x(p')] over channels."""
        if self.centred is not None:
            return self.centred
        if self.products is None:
            raise ValueError("the walk kept no products of points here")
        return self.products - self.mean[..., :, None] * self.mean[..., None, :]


@dataclass(frozen=True)
class LayerWeights:
    """A layer's numbers, any gain included.

    Attributes
    ----------
    mean, var
        Of a weight, for each tap.
    bias_mean, bias_var
        Of a bias.
    inputs, outputs
        Channels that one output channel reads, and that one input channel feeds: one group's.
    channels
        Output channels of the whole layer.
    groups
        Blocks of channels that are connected to each other only.
    """

    mean: Float[Tensor, " tap"]
    var: Float[Tensor, " tap"]
    bias_mean: float
    bias_var: float
    inputs: int
    outputs: int
    channels: int
    groups: int

    @property
    def centred(self) -> bool:
        """Whether all weights have mean zero."""
        return not bool(self.mean.any())

    def on_scale(self, log_scale: float) -> LayerWeights:
        """With biases in units of e^log_scale."""
        unit = math.exp(min(-log_scale, MOST_LOG))
        return replace(self, bias_mean=unit * self.bias_mean, bias_var=unit**2 * self.bias_var)

    def scaled(self, gain: float) -> LayerWeights:
        """The same with weights `gain` times as large."""
        return replace(self, mean=gain * self.mean, var=gain**2 * self.var)


@dataclass(frozen=True)
class Made:
    """A weight layer's pre-activations: a Gaussian field around a mean map.

    Attributes
    ----------
    mean, var
        The mean map that all channels share, a particle each, and the variance around it.
    cov
        Covariance of points, where the walk needs it.
    root
        F with F F^T = cov, where a thin one is known.
    m2, expected_mean
        E[y(p)^2] and E[y(p)], this layer's own draw of the shared mean integrated out exactly.
    grand_square
        E[(mean of y over an image's points and all channels)^2], per image of the field.
    log_scale
        The true y is e^log_scale times the one described here.
    """

    mean: Points
    var: Points
    cov: Pairs | None
    root: Tensor | None
    m2: Points
    expected_mean: Points
    grand_square: Float[Tensor, "image particle part joint"]
    log_scale: float = 0.0

    @property
    def worlds(self) -> tuple[int, int, int]:
        """Images, particles, parts."""
        images, particles, parts = torch.broadcast_shapes(self.mean.shape, self.var.shape)[:3]
        return images, particles, parts

    @property
    def rank(self) -> int:
        """Independent normals that make a field."""
        return self.root.shape[-1] if self.root is not None else self.var.shape[-1]

    @property
    def covariance(self) -> Pairs:
        """`cov`, which the walk must have kept."""
        if self.cov is None:
            raise ValueError("the walk kept no covariance of points here")
        return self.cov

    @property
    def shift(self) -> float | None:
        """The mean where it is one number everywhere, else None."""
        first = self.mean.flatten()[0]
        return float(first) if bool((self.mean == first).all()) else None


@dataclass(frozen=True)
class FieldLayer:
    """One weight layer of a walk.

    Attributes
    ----------
    fed, made
        What goes in and what comes out.
    between
        What follows, up to the next weight layer; None for the last.
    passed
        Moments after it, what the next layer is fed; None for the last.
    cotangent
        At the pre-activations; None before the way back.
    received
        At the end of `between`; None before the way back, and for the last.
    """

    name: str
    taps: Taps
    weights: LayerWeights
    fed: Fed
    made: Made
    between: Between | None = None
    passed: Fed | None = None
    cotangent: Cotangent | None = None
    received: Cotangent | None = None

    @property
    def activation(self) -> Function | None:
        """The elementwise function that takes the pre-activations first, where there is one."""
        first = self.between.steps[0] if self.between and self.between.steps else None
        return first.function if isinstance(first, Pointwise) else None
