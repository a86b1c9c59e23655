"""Points at which a layer may be exactly 0 because all its inputs are 0.

Activations such as ReLU are 0 on an interval. If every channel is 0 in all points that a weight
layer without biases reads, the layer's pre-activation is exactly 0 in all channels, not Gaussian.
This is likely where units are rarely active, for example at dark pixels if the weights have a
positive mean. For weights of mean zero, its probability vanishes as the width grows, so theory
`field` neglects it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from fanin.theory.elementwise import Function
from fanin.theory.field.forward import NEAR_ZERO, zero_fraction
from fanin.theory.field.interlayer import Interlayer
from fanin.theory.field.state import Cotangent, FieldLayer, LayerWeights, Points, Preactivation
from fanin.theory.layer_kind import Mixing

NEGLIGIBLE = 1e-6  # probability that all inputs are 0


def activity(layer: FieldLayer, next_layer: FieldLayer) -> Points | None:
    """Return, for each point of the next layer, the probability that not all its inputs are 0.

    A point whose own inputs are all 0 is 0 in all channels. At other points, channels are treated
    as independent. The points that one point of the next layer reads are treated as all 0 or all
    not 0. The result is None if the probability is 1 at all points.
    """
    interlayer, weights = layer.interlayer, next_layer.weights
    assert interlayer is not None
    has_bias = weights.bias_mean != 0 or weights.bias_var > 0
    function = interlayer.pointwise
    if has_bias or not bool((function(NEAR_ZERO) == 0).any()) or float(function(torch.zeros(()))):
        return None
    if not _keeps_zeros(interlayer):
        return None

    def read(share: Points) -> Points:
        share = _for_groups(_pooled(interlayer, share), weights)
        return next_layer.taps.gather(share).amax(-1).clamp(max=1 - 1e-12)

    before = layer.activity
    preact = layer.preact if before is None else _if_active(layer.preact, before)
    nonzero = read(1 - zero_fraction(function, preact))
    active = -torch.expm1(weights.group_in_channels * torch.log1p(-nonzero))
    if before is not None:
        active = active * read(before)  # a point without active inputs is 0 in all channels
    return active if bool((active < 1 - NEGLIGIBLE).any()) else None


def zero_share(function: Function, preact: Preactivation, active: Points | None) -> Points:
    """Return the probability that a unit's output is 0; NaN where `zero_fraction` returns NaN."""
    if active is None:
        return zero_fraction(function, preact)
    return 1 - active * (1 - zero_fraction(function, _if_active(preact, active)))


def damp(cotangent: Cotangent, active: Points) -> Cotangent:
    """Multiply second moments of a cotangent by the probability that its points are active.

    If a point is inactive, the pre-activations of all its channels are 0, and so are the slopes.
    """
    pairs = torch.minimum(active[..., :, None], active[..., None, :])
    return cotangent.map(lambda x: x * (active if x.ndim == active.ndim else pairs))


def _if_active(preact: Preactivation, active: Points) -> Preactivation:
    share = active.clamp(min=torch.finfo(torch.float64).tiny)
    return replace(preact, mean=preact.mean / share, var=preact.var / share)


def _keeps_zeros(interlayer: Interlayer) -> bool:
    """Return True if pooling gives 0 only where all inputs are 0 (maxima and averages)."""
    steps = [step for step in interlayer.steps if isinstance(step, Mixing)]
    if any(not (step.linear or step.routes) for step in steps):
        return False
    points = interlayer.images_per_field * math.prod(interlayer.positions)
    ones = torch.ones(1, 1, 1, points, dtype=torch.float64)
    return bool((_pooled(interlayer, ones) > 0).all())


def _pooled(interlayer: Interlayer, nonzero: Points) -> Points:
    leading = nonzero.shape[:-1]
    x = nonzero.reshape(-1, interlayer.images_per_field, *interlayer.positions).transpose(0, 1)
    for step in interlayer.steps:
        if isinstance(step, Mixing):
            x = step(x, 1)
    return x.transpose(0, 1).flatten(1).reshape(*leading, -1).clamp(0, 1)


def _for_groups(nonzero: Points, weights: LayerWeights) -> Points:
    groups = nonzero.shape[2]
    return nonzero if weights.groups % groups == 0 else nonzero.mean(2, True)
