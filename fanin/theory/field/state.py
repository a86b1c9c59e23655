"""Moments of a layer's input, its pre-activations and its cotangents.

The axes of all tensors are image, particle, group and point:

- image: length 1 when all images share one field.
- particle: samples of the mean maps that the channels of a group share; length 1 where these maps
  are deterministic.
- group: groups of a layer whose channels have different means, because they read different image
  channels or because each group's shared mean is random; length 1 otherwise.
- point: positions of all images in the field.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.elementwise import Function
from fanin.theory.field.geometry import Taps
from fanin.theory.field.interlayer import Interlayer
from fanin.theory.layer_kind import Pointwise

Points = Float[Tensor, "image particle group point"]
Pairs = Float[Tensor, "image particle group point point"]
MAX_LOG = 350.0  # exp(350)^2 is just below the largest float64


@dataclass(frozen=True)
class LayerInput:
    """Moments of a weight layer's input, over channels.

    Attributes
    ----------
    mean, m2
        E[x(p)] and E[x(p)^2].
    products
        E[x(p) x(p')]; None where no later layer needs it.
    cov
        Cov[x(p), x(p')] of channels with a common mean. If it is None, it follows from `products`
        and `mean`.
    deterministic
        True if the channels are known (an image's), False if they are random (a wide layer's).
    log_scale
        The true x is e^log_scale times the x described here.
    """

    mean: Points
    m2: Points
    products: Pairs | None
    cov: Pairs | None = None
    deterministic: bool = False
    log_scale: float = 0.0

    def for_groups(self, groups: int) -> LayerInput:
        """Average the input's moments over the channels that each group of a layer reads."""
        n_groups = self.m2.shape[2]
        if n_groups in (1, groups):
            return self
        overlap = groups * group_overlaps(groups, n_groups)
        products = cov = None
        if self.products is not None:
            products = combine_groups(overlap, self.products)
            # Each group has a fixed number of channels, so the differences between the groups'
            # means add nothing to the variance of a sum over channels.
            cov = combine_groups(overlap, self.covariance)
        mean, m2 = combine_groups(overlap, self.mean), combine_groups(overlap, self.m2)
        return LayerInput(mean, m2, products, cov, self.deterministic, self.log_scale)

    @property
    def covariance(self) -> Pairs:
        """Cov[x(p), x(p')] over channels."""
        if self.cov is not None:
            return self.cov
        if self.products is None:
            raise ValueError("this layer's covariances were not kept; pass keep_covariances=True")
        return self.products - self.mean[..., :, None] * self.mean[..., None, :]


@dataclass(frozen=True)
class LayerWeights:
    """Moments and sizes of a layer's weights, including any gain.

    Attributes
    ----------
    mean, var
        Mean and variance of a weight, for each tap.
    bias_mean, bias_var
        Mean and variance of a bias.
    group_in_channels, group_out_channels
        Channels that one output channel reads, and channels that read one input channel. Both are
        counted inside one group.
    out_channels
        Output channels of the whole layer.
    groups
        Groups of the convolution.
    kurtosis, bias_kurtosis
        Excess kurtosis of a weight and of a bias.
    """

    mean: Float[Tensor, " tap"]
    var: Float[Tensor, " tap"]
    bias_mean: float
    bias_var: float
    group_in_channels: int
    group_out_channels: int
    out_channels: int
    groups: int
    kurtosis: float = 0.0
    bias_kurtosis: float = 0.0

    @property
    def zero_mean(self) -> bool:
        """True if all weights have mean zero."""
        return not bool(self.mean.any())

    def with_bias_scale(self, log_scale: float) -> LayerWeights:
        """Return the weights with biases in units of e^log_scale."""
        unit = math.exp(min(-log_scale, MAX_LOG))
        return replace(self, bias_mean=unit * self.bias_mean, bias_var=unit**2 * self.bias_var)

    def scaled(self, gain: float) -> LayerWeights:
        """Return the weights multiplied by `gain`; biases stay."""
        return replace(self, mean=gain * self.mean, var=gain**2 * self.var)


@dataclass(frozen=True)
class Preactivation:
    """Moments of a weight layer's pre-activations: a Gaussian field around a mean map.

    Attributes
    ----------
    mean, var
        The mean map that the channels of a group share, one per particle, and the variance around
        it.
    cov
        Covariance of points; None where no later layer needs it.
    root
        F with F F^T = cov, if one with few columns is known.
    m2, expected_mean
        E[y(p)^2] and E[y(p)], with this layer's own random mean integrated exactly.
    grand_mean_square
        E[(mean of y over an image's points and all channels)^2], per image of the field.
    log_scale
        The true y is e^log_scale times the y described here.
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
        """Numbers of images, particles and groups; each combination is one field."""
        images, particles, groups = np.broadcast_shapes(self.mean.shape, self.var.shape)[:3]
        return images, particles, groups

    @property
    def rank(self) -> int:
        """Number of independent standard normal numbers from which a field is computed."""
        return self.root.shape[-1] if self.root is not None else self.var.shape[-1]

    @property
    def covariance(self) -> Pairs:
        """`cov`, or an error if it was not kept."""
        if self.cov is None:
            raise ValueError("this layer's covariances were not kept; pass keep_covariances=True")
        return self.cov

    @property
    def constant_mean(self) -> float | None:
        """The mean if it is the same number everywhere, else None."""
        first = self.mean.flatten()[0]
        return float(first) if bool((self.mean == first).all()) else None


@dataclass(frozen=True)
class SharedCotangent:
    r"""Moments of the part of a cotangent that channels share; needed if weights have a mean.

    At the output of the modules, the cotangent of a channel x at point p is
    :math:`g = \text{own} + S(p) + \theta(p) x(p)`. S and theta are the same for all channels that
    one group of the next layer reads. S is caused by the weights' mean. Theta appears because
    :math:`W^T \delta` (:math:`\delta`: cotangent at the next layer's pre-activations y) is not
    independent of x if the mean over channels of :math:`d\delta/dy` differs from 0 (Stein's lemma;
    the correction term of Yang 2020, "Tensor Programs II"). At the pre-activations, S and theta are
    the means over a group's channels of delta and of d delta / dy.

    Attributes
    ----------
    additive, cross, response
        E[S S'], E[S theta'] and E[theta theta'] of one group.
    across
        The same moments of two different groups, averaged over pairs of groups; None if there is
        one group.
    """

    additive: Pairs
    cross: Pairs
    response: Pairs
    across: SharedCotangent | None = None

    @property
    def joint_covariance(self) -> Tensor:
        """The covariance of (S, theta), [..., 2 point, 2 point]."""
        upper = torch.cat([self.additive, self.cross], -1)
        lower = torch.cat([self.cross.mT, self.response], -1)
        return torch.cat([upper, lower], -2)

    def map(self, function: Callable[[Pairs], Pairs]) -> SharedCotangent:
        """Apply a function to all moments."""
        return SharedCotangent(
            function(self.additive),
            function(self.cross),
            function(self.response),
            None if self.across is None else self.across.map(function),
        )


@dataclass(frozen=True)
class Cotangent:
    """Second moments of a cotangent d, the gradient of a random function of the logits.

    Attributes
    ----------
    m2, products
        E[d(p)^2] and E[d(p) d(p')] of one channel. `products` is None if different points are
        uncorrelated. At the output of the modules they exclude the shared part; at the
        pre-activations they include it.
    shared
        The part that channels share (see `SharedCotangent`); None if channels are uncorrelated.
    log_scale
        The true cotangent is e^log_scale times the cotangent described here.
    """

    m2: Points
    products: Pairs | None = None
    shared: SharedCotangent | None = None
    log_scale: float = 0.0

    def map(self, function: Callable[[Tensor], Tensor]) -> Cotangent:
        """Apply a linear function of the axes image, particle and group to all moments."""
        return Cotangent(
            function(self.m2),
            None if self.products is None else function(self.products),
            None if self.shared is None else self.shared.map(function),
            self.log_scale,
        )

    def to_input_groups(self, groups: int) -> Cotangent:
        """Sum the cotangents of the output groups that read each group of input channels."""
        n_groups = self.m2.shape[2]
        if n_groups in (1, groups):
            return self
        overlap = groups * group_overlaps(groups, n_groups)
        return self.map(lambda x: combine_groups(overlap, x))

    def mean_over_particles(self) -> Cotangent:
        """Average over particles, for a layer with a deterministic mean map."""
        return self.map(lambda x: x.mean(1, True))

    @property
    def full_products(self) -> Pairs:
        """`products` as full matrices."""
        return torch.diag_embed(self.m2) if self.products is None else self.products


@dataclass(frozen=True)
class FieldLayer:
    """Moments of one weight layer, forward and backward.

    Attributes
    ----------
    taps, weights
        Input points of each output point, and the moments of the weights.
    inputs, preact
        Moments of the layer's input and of its pre-activations.
    interlayer
        The modules up to the next weight layer; None for the last layer.
    outputs
        Moments at the output of `interlayer`, which are the next layer's `inputs`; None for the
        last layer.
    cotangent
        Moments of the cotangent at the pre-activations; None before the backward pass.
    output_cotangent
        Moments of the cotangent at the output of `interlayer`; None before the backward pass, and
        for the last layer.
    activity
        Probability that not all inputs of a point are 0; None if it is 1 everywhere.
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
    activity: Points | None = None

    @property
    def activation(self) -> Function | None:
        """The elementwise function applied directly to the pre-activations, or None."""
        first = self.interlayer.steps[0] if self.interlayer and self.interlayer.steps else None
        return first.function if isinstance(first, Pointwise) else None


def select_fields(
    x: Float[Tensor, "image particle group ..."], field_shape: tuple[int, int, int], index: slice
) -> Float[Tensor, "field ..."]:
    """Select some fields of a tensor that can be broadcast to all of them."""
    leading = x.shape[:3]
    rows = torch.arange(leading.numel()).reshape(leading).expand(field_shape).flatten()[index]
    return x.flatten(0, 2)[rows]


def group_overlaps(rows: int, columns: int) -> Float[Tensor, "row column"]:
    """Return the share of all channels that row i's group and column j's group have in common.

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
    """Average over groups with the given weights, whose sum is 1; a single group stays."""
    return x if x.shape[2] == 1 else torch.einsum("tp,irp...->irt...", overlap, x)
