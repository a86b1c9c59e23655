"""Variance that orthogonal weights add to second moments, relative to independent weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fanin.inits.weight_shape import WeightLayer, WeightShape
from fanin.theory.field import FieldLayer
from fanin.theory.moments import LayerMoments


@dataclass(frozen=True)
class FreeFraction:
    """Variance that a layer's weights add, divided by that of independent weights.

    The variance is that of the layer's second moments, forward and backward, given its inputs.

    Independent weights have (1, 1). Orthogonal weights preserve lengths, so their fractions are
    smaller.
    """

    forward: float = 1.0
    backward: float = 1.0


def free_fraction(
    layer: WeightLayer, moments: LayerMoments, group_similarity: float = 0.0
) -> FreeFraction:
    """Return the fractions of the second moments' variance that a layer's weights add.

    An orthogonal matrix with at least as many outputs as inputs preserves dot products. With fewer
    outputs it preserves a part of them. The same holds backward if the kernel has one tap. Section
    5.3 of docs/appendix/derivations.md derives the case of one matrix for several groups.

    Parameters
    ----------
    group_similarity
        Squared cosine of the inputs of two groups; it matters if groups share a matrix.

    Examples
    --------
    >>> from torch import nn
    >>> from fanin.inits import Moments
    >>> moments = LayerMoments(Moments(0.0, 0.1), Moments(0.0, 0.0), "orthogonal")
    >>> free_fraction(nn.Linear(40, 10), moments)
    FreeFraction(forward=0.75, backward=0.0)
    """
    if moments.dependence == "independent":
        return FreeFraction()
    shape = WeightShape.of(layer)
    # Different variances per tap mean that the kernel has one non-zero tap.
    one_tap = shape.taps == 1 or torch.as_tensor(moments.weight.var).ndim > 0
    inputs = shape.one_group.in_features if one_tap else shape.fan_in
    outputs = shape.one_group.out_features
    if moments.dependence == "orthogonal_per_group":
        size, similar_groups = max(outputs, inputs), 1.0
    else:
        size = max(shape.out_features, inputs)
        similar_groups = 1 + (shape.groups - 1) * group_similarity
    return FreeFraction(
        forward=max(0.0, 1 - outputs / size * similar_groups),
        backward=max(0.0, 1 - inputs / size) if one_tap else 1.0,
    )


def group_similarity(layer: FieldLayer) -> float:
    """Return the squared cosine of the inputs of two groups, averaged over pairs of positions.

    Two groups read different channels, which are independent and have equal means. So the cosine is
    E[x]^2 / E[x^2] at a single position: 1 / pi after a ReLU.
    """
    if layer.weights.groups == 1:
        return 0.0
    inputs, taps, var = layer.inputs, layer.taps, layer.weights.var
    assert inputs.products is not None
    means = inputs.mean[..., :, None] * inputs.mean[..., None, :]
    within, between = (taps.forward_products(x, var) for x in (inputs.products, means))
    total = float(within.square().sum())
    return float(between.square().sum()) / total if total > 0 else 0.0
