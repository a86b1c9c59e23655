"""The state of the walk: moments of a layer's input, its pre-activations and its cotangents.

Axes of all tensors: image (one when images are taken jointly), particle (of the mean map that all
channels share; one where that map is certain), group (channels that read different images'
channels in a grouped first layer; one otherwise) and point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.elementwise import Function
from fanin.theory.field.geometry import Taps
from fanin.theory.field.interlayer import Interlayer
from fanin.theory.layer_kind import Pointwise

Points = Float[Tensor, "image particle group point"]
Pairs = Float[Tensor, "image particle group point point"]
MAX_LOG = 350.0  # e^350 squares to what float64 just holds


@dataclass(frozen=True)
class LayerInput:
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
    cov: Pairs | None = None
    deterministic: bool = False
    log_scale: float = 0.0

    def for_groups(self, groups: int) -> LayerInput:
        """Average the input's groups that feed one group of a layer."""
        n_groups = self.m2.shape[2]
        if n_groups == 1 or groups % n_groups == 0:
            return self
        overlap = groups * group_overlaps(groups, n_groups)
        products = None if self.products is None else combine_groups(overlap, self.products)
        mean, m2 = combine_groups(overlap, self.mean), combine_groups(overlap, self.m2)
        # Groups of different means are no one population: their spread comes from the products.
        return LayerInput(
            mean, m2, products, deterministic=self.deterministic, log_scale=self.log_scale
        )

    @property
    def covariance(self) -> Pairs:
        """Cov[x(p), x(p')] over channels."""
        if self.cov is not None:
            return self.cov
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
    group_in_channels: int
    group_out_channels: int
    out_channels: int
    groups: int

    @property
    def zero_mean(self) -> bool:
        """True if all weights have mean zero."""
        return not bool(self.mean.any())

    def with_bias_scale(self, log_scale: float) -> LayerWeights:
        """With biases in units of e^log_scale."""
        unit = math.exp(min(-log_scale, MAX_LOG))
        return replace(self, bias_mean=unit * self.bias_mean, bias_var=unit**2 * self.bias_var)

    def scaled(self, gain: float) -> LayerWeights:
        """The same with weights `gain` times as large."""
        return replace(self, mean=gain * self.mean, var=gain**2 * self.var)


@dataclass(frozen=True)
class Preactivation:
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
    grand_mean_square: Float[Tensor, "image particle group joint"]
    log_scale: float = 0.0

    @property
    def field_shape(self) -> tuple[int, int, int]:
        """Images, particles, groups: a field each."""
        images, particles, groups = torch.broadcast_shapes(self.mean.shape, self.var.shape)[:3]
        return images, particles, groups

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
    def constant_mean(self) -> float | None:
        """The mean where it is one number everywhere, else None."""
        first = self.mean.flatten()[0]
        return float(first) if bool((self.mean == first).all()) else None


@dataclass(frozen=True)
class SharedCotangent:
    r"""Component that the cotangents of different channels share, where weights have a mean.

    Behind the modules a channel x receives :math:`g = \text{own} + S(p) + \theta(p) x(p)`, with S
    and theta alike for all channels: S comes through the weights' mean, and theta because
    :math:`W^T \delta` is no fresh draw where the mean over channels of :math:`d\delta/dy` differs
    from 0 (Stein's lemma; Yang 2020, "Tensor Programs II", has it as a correction term). At the
    pre-activations S and theta are the means over channels of delta and of d delta / dy.

    Attributes
    ----------
    shared, cross, response
        E[S S'], E[S theta'] and E[theta theta'].
    """

    additive: Pairs
    cross: Pairs
    response: Pairs

    @property
    def joint_covariance(self) -> Tensor:
        """The covariance of (S, theta), [..., 2 point, 2 point]."""
        upper = torch.cat([self.additive, self.cross], -1)
        lower = torch.cat([self.cross.mT, self.response], -1)
        return torch.cat([upper, lower], -2)

    def map(self, function: Callable[[Pairs], Pairs]) -> SharedCotangent:
        """The same change made to all three."""
        return SharedCotangent(
            function(self.additive), function(self.cross), function(self.response)
        )


@dataclass(frozen=True)
class Cotangent:
    """Second moments of a cotangent.

    Attributes
    ----------
    m2, products
        E[d(p)^2] and E[d(p) d(p')] of one channel; no `products` where different points are
        uncorrelated. Behind the modules without what is coherent, at the pre-activations with it.
    coherent
        What different channels have in common; None where they are uncorrelated.
    log_scale
        The true cotangent is e^log_scale times the one described here.
    """

    m2: Points
    products: Pairs | None = None
    shared: SharedCotangent | None = None
    log_scale: float = 0.0

    def map(self, function: Callable[[Tensor], Tensor]) -> Cotangent:
        """The same linear change, along the leading axes, made to all moments."""
        return Cotangent(
            function(self.m2),
            None if self.products is None else function(self.products),
            None if self.shared is None else self.shared.map(function),
            self.log_scale,
        )

    def to_input_groups(self, groups: int) -> Cotangent:
        """Give each group of the channels below what it receives from those that it feeds."""
        n_groups = self.m2.shape[2]
        if n_groups in (1, groups):
            return self
        overlap = groups * group_overlaps(groups, n_groups)
        return self.map(lambda x: combine_groups(overlap, x))

    def mean_over_particles(self) -> Cotangent:
        """The average over particles, for a layer whose own mean map is certain."""
        return self.map(lambda x: x.mean(1, True))

    @property
    def full_products(self) -> Pairs:
        """`products`, written out."""
        return torch.diag_embed(self.m2) if self.products is None else self.products


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
    inputs: LayerInput
    preact: Preactivation
    interlayer: Interlayer | None = None
    outputs: LayerInput | None = None
    cotangent: Cotangent | None = None
    output_cotangent: Cotangent | None = None

    @property
    def activation(self) -> Function | None:
        """The elementwise function that takes the pre-activations first, where there is one."""
        first = self.interlayer.steps[0] if self.interlayer and self.interlayer.steps else None
        return first.function if isinstance(first, Pointwise) else None


def select_fields(
    x: Float[Tensor, "image particle group ..."], field_shape: tuple[int, int, int], index: slice
) -> Float[Tensor, "field ..."]:
    """Pick some fields of a tensor that is broadcast to all of them, without copying the others."""
    leading = x.shape[:3]
    rows = torch.arange(leading.numel()).reshape(leading).expand(field_shape).flatten()[index]
    return x.flatten(0, 2)[rows]


def group_overlaps(rows: int, columns: int) -> Float[Tensor, "row column"]:
    """Channels that row i's block and column j's block have in common, as a share of all.

    Examples
    --------
    >>> (8 * group_overlaps(2, 4)).tolist()
    [[2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 2.0]]
    """
    ends = [torch.arange(n + 1, dtype=torch.float64) / n for n in (rows, columns)]
    low = torch.maximum(ends[0][:-1, None], ends[1][:-1])
    high = torch.minimum(ends[0][1:, None], ends[1][1:])
    return (high - low).clamp(min=0)


def combine_groups(overlap: Float[Tensor, "to group"], x: Tensor) -> Tensor:
    """Sum groups into others, by their shares."""
    return torch.einsum("tp,irp...->irt...", overlap, x)
