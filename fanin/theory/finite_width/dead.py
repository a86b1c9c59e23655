"""Probability that a layer is dead: all slopes of its activation are 0, so no gradient passes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fanin.theory.elementwise import derivative, elementwise
from fanin.theory.field import FieldLayer
from fanin.theory.layers import unchanged
from fanin.theory.network import ParsedNetwork

DEAD_NODES = 64  # of the quadrature over each of two pre-activations


def dead_probability(net: ParsedNetwork, layers: Sequence[FieldLayer]) -> float:
    """Estimate an upper bound of the probability that any layer is dead on an image.

    The probabilities of the layers are added. Channels are independent. All slopes of a channel are
    0 only if they are 0 at the two positions whose pre-activations are least correlated. For a ReLU
    the probability of that is 1/4 + asin(correlation) / (2 pi), or 1/2 if all positions are equal.
    The correlation is that of an infinitely wide network. In a narrow network it varies between
    draws, so the result is not a strict bound.
    """
    quantiles = torch.special.ndtri((torch.arange(DEAD_NODES).double() + 0.5) / DEAD_NODES)
    z = torch.cartesian_prod(quantiles, quantiles).T
    total = 0.0
    for stage, layer in zip(net.stages, layers, strict=True):
        y = layer.preact
        var, cov, mean = y.var[0, 0, 0], y.covariance[0, 0, 0], y.mean[0, 0, 0]
        correlation = torch.where(cov.diagonal() > 0, cov / (var * var[:, None]).sqrt(), 1.0)
        first, second = divmod(int(correlation.argmin()), len(var))
        r = correlation[first, second].clamp(-1, 1)
        pair = torch.stack([z[0], r * z[0] + (1 - r**2).sqrt() * z[1]])
        at = [first, second]
        pair = math.exp(y.log_scale) * (mean[at, None] + var[at, None].sqrt() * pair)
        slope = torch.ones_like(pair)
        for named_layer in stage.after:
            function = elementwise(named_layer.module)
            if named_layer.kind.scalar is not unchanged and function is not None:
                pair, factor = derivative(function, pair)
                slope = slope * factor
        share = (slope == 0).all(0).double().mean()
        total += float(share) ** layer.weights.out_channels
    return total
