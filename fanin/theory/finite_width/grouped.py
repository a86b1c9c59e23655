"""Conversion of a grouped first layer to an equivalent ungrouped one, for the first-order law.

Let the first layer have C channels in g groups, which read different channels of the image. One
channel of every group, side by side, form one channel of an equivalent layer with C / g independent
channels. The covariance of that channel has one block per group. For each point that the next layer
read before, it now reads g points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fanin.theory.field.geometry import Taps
from fanin.theory.field.state import Cotangent, FieldLayer, LayerInput, LayerWeights, Preactivation

GROUP_AXIS = 2


def ungroup_first_layer(
    layers: Sequence[FieldLayer], images_per_field: int
) -> tuple[FieldLayer, ...]:
    """Return the layers with an equivalent ungrouped first layer.

    The second layer must read all groups.
    """
    groups = layers[0].preact.var.shape[GROUP_AXIS]
    if groups == 1:
        return tuple(layers)
    first, second, *others = layers
    assert first.interlayer is not None
    assert first.outputs is not None
    assert first.cotangent is not None
    assert first.output_cotangent is not None
    merged = _Merged(groups, images_per_field)
    outputs = merged.inputs(first.outputs)
    first = replace(
        first,
        taps=merged.taps_of_every_group(first.taps),
        weights=_divided(first.weights, groups),
        inputs=merged.inputs(first.inputs),
        preact=merged.preact(first.preact),
        interlayer=replace(first.interlayer, images_per_field=groups * images_per_field),
        outputs=outputs,
        cotangent=merged.cotangent(first.cotangent),
        output_cotangent=merged.cotangent(first.output_cotangent),
    )
    weights = second.weights
    second = replace(
        second,
        taps=merged.taps_over_groups(second.taps),
        weights=replace(
            weights,
            mean=weights.mean.repeat(groups),
            var=weights.var.repeat(groups),
            group_in_channels=weights.group_in_channels // groups,
        ),
        inputs=outputs,
    )
    return first, second, *others


def _divided(weights: LayerWeights, groups: int) -> LayerWeights:
    # The excess kurtosis is neglected: a column of a merged root no longer stands for one weight.
    return replace(
        weights,
        out_channels=weights.out_channels // groups,
        groups=1,
        kurtosis=0.0,
        bias_kurtosis=0.0,
    )


class _Merged:
    """Moves the axis of groups into the points, which are ordered by image, group and position."""

    def __init__(self, groups: int, images: int) -> None:
        self.groups, self.images = groups, images

    def points(self, x: Tensor) -> Tensor:
        """Merge moments of points [1, 1, group or 1, point]."""
        x = x.expand(*x.shape[:2], self.groups, -1).unflatten(-1, (self.images, -1))
        return x.transpose(-3, -2).flatten(-3)[:, :, None]

    def pairs(self, x: Tensor) -> Tensor:
        """Merge moments of pairs of points; different groups are independent."""
        x = x.expand(*x.shape[:2], self.groups, -1, -1)
        x = x.unflatten(-1, (self.images, -1)).unflatten(-3, (self.images, -1))
        blocks = torch.einsum("abgipjq,gh->abigpjhq", x, torch.eye(self.groups).to(x))
        return blocks.flatten(-3).flatten(2, 4)[:, :, None]

    def root(self, x: Tensor) -> Tensor:
        """Merge roots of covariances; every group has its own columns."""
        x = x.unflatten(-2, (self.images, -1))
        blocks = torch.einsum("abgipr,gh->abigphr", x, torch.eye(self.groups).to(x))
        return blocks.flatten(-2).flatten(2, 4)[:, :, None]

    def inputs(self, x: LayerInput) -> LayerInput:
        """Merge the moments of a layer's input."""
        products = None if x.products is None else self.pairs(x.products)
        return replace(
            x, mean=self.points(x.mean), m2=self.points(x.m2), products=products, cov=None
        )

    def preact(self, y: Preactivation) -> Preactivation:
        """Merge the moments of the pre-activations."""
        return replace(
            y,
            mean=self.points(y.mean.expand_as(y.var)),
            var=self.points(y.var),
            cov=self.pairs(y.covariance),
            root=None if y.root is None else self.root(y.root),
            m2=self.points(y.m2),
            expected_mean=self.points(y.expected_mean.expand_as(y.var)),
        )

    def cotangent(self, d: Cotangent) -> Cotangent:
        """Merge the moments of a cotangent."""
        products = None if d.products is None else self.pairs(d.products)
        return replace(d, m2=self.points(d.m2), products=products)

    def taps_of_every_group(self, taps: Taps) -> Taps:
        """Return the taps of all groups, side by side."""
        n_images, n_inputs = self.images, taps.n_inputs // self.images
        table = taps.input_index[: len(taps.input_index) // n_images]
        offsets = torch.arange(n_images * self.groups)[:, None, None] * n_inputs
        index = torch.where(table > 0, table + offsets, 0).flatten(0, 1)
        return replace(taps, input_index=index, n_inputs=n_images * self.groups * n_inputs)

    def taps_over_groups(self, taps: Taps) -> Taps:
        """Return taps that read the same point of every group."""
        size = taps.n_inputs // self.images  # of one map
        image = torch.div(taps.input_index - 1, size, rounding_mode="floor")
        position = (taps.input_index - 1) % size
        columns = [
            torch.where(
                taps.input_index > 0, 1 + (image * self.groups + group) * size + position, 0
            )
            for group in range(self.groups)
        ]
        return replace(
            taps, input_index=torch.cat(columns, 1), n_inputs=self.groups * taps.n_inputs
        )
