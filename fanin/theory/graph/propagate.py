"""Distributions of all tensors of a graph, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.graph.channel import Gaussian, known_channels
from fanin.theory.graph.feature_map import FeatureMap, Group
from fanin.theory.graph.operations import Fields, Operation, Weights, sum_cotangents


@dataclass(frozen=True)
class Step:
    """One operation of the graph.

    Attributes
    ----------
    name
        Module path, or the path and the operation.
    operation
        Its rules; None for the images.
    inputs
        Numbers of the steps whose outputs it reads.
    """

    name: str
    operation: Operation | None
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True)
class TensorMoments:
    """Distribution of one step's output, and of its cotangent.

    Attributes
    ----------
    value, cotangent
        Distributions; `cotangent` is None where the output does not depend on the tensor through
        random weights.
    weight_gradient_m2
        E[(dL/dw)^2] for each image, for a weight layer.
    """

    name: str
    value: FeatureMap
    cotangent: FeatureMap | None
    weight_gradient_m2: Float[Tensor, " image"] | None = None

    @property
    def is_sampled(self) -> bool:
        """True if a second moment comes from samples."""
        maps = [self.value] if self.cotangent is None else [self.value, self.cotangent]
        channels = [group.channel for x in maps for group in x.groups]
        return any(not (channel.is_closed or channel.is_known) for channel in channels)


@torch.no_grad()
def propagate(
    steps: Sequence[Step], images: Float[Tensor, "image channel *position"], fields: Fields
) -> list[TensorMoments]:
    """Compute the distributions of all tensors for images that share one field.

    The cotangent at the output is random: independent of mean 0 and variance 1 for each image and
    output.
    """
    values: list[FeatureMap] = []
    for step in steps:
        if step.operation is None:
            values.append(images_map(images))
        else:
            values.append(step.operation.forward([values[i] for i in step.inputs], fields))
    cotangents: list[FeatureMap | None] = [None] * len(steps)
    gradients: list[Tensor | None] = [None] * len(steps)
    cotangents[-1] = _output_cotangent(values[-1], fields)
    for index in range(len(steps) - 1, -1, -1):
        step, g = steps[index], cotangents[index]
        if step.operation is None or g is None:
            continue
        inputs = [values[i] for i in step.inputs]
        if isinstance(step.operation, Weights):
            gradients[index] = step.operation.layer.gradient_m2(inputs[0], g)
        results = step.operation.backward(inputs, values[index], g, fields)
        for i, result in zip(step.inputs, results, strict=True):
            if result is not None:
                cotangents[i] = sum_cotangents(cotangents[i], result)
    return [
        TensorMoments(step.name, value, cotangent, gradient)
        for step, value, cotangent, gradient in zip(
            steps, values, cotangents, gradients, strict=True
        )
    ]


def images_map(images: Float[Tensor, "image channel *position"]) -> FeatureMap:
    """Return the images as a tensor of known channels."""
    return FeatureMap((Group(images.shape[1], known_channels(images)),))


def _output_cotangent(output: FeatureMap, fields: Fields) -> FeatureMap:
    points = output.groups[0].channel.points
    gaussian = Gaussian(torch.eye(points, dtype=torch.float64))
    return FeatureMap((Group(output.n_channels, fields.new(output.shape, gaussian)),))
