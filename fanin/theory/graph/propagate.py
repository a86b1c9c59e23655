"""Distributions of all tensors of a graph, forward and backward."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.graph.channel import Gaussian, known_channels
from fanin.theory.graph.depthwise import Depthwise
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

    def summary(self, moments: bool) -> TensorMoments:
        """Return the moments without samples and covariances (`Channel.summary`)."""
        cotangent = self.cotangent and self.cotangent.summary(moments)
        return replace(self, value=self.value.summary(moments), cotangent=cotangent)


@torch.no_grad()
def propagate(
    steps: Sequence[Step],
    images: Float[Tensor, "image channel *position"],
    fields: Fields,
    summarized: Collection[int] | None = None,
) -> list[TensorMoments]:
    """Compute the distributions of all tensors for images that share one field.

    The cotangent at the output is random: independent of mean 0 and variance 1 for each image and
    output.

    Parameters
    ----------
    summarized
        Numbers of the steps whose moments are needed. Samples and covariances are then freed as
        soon as possible (`Channel.summary`). None keeps everything.
    """
    values: list[Any] = forward(steps, images, fields)
    cotangents: list[FeatureMap | None] = [None] * len(steps)
    cotangents[-1] = output_cotangent(values[-1], fields)
    results: list[TensorMoments] = []
    for index in range(len(steps) - 1, -1, -1):
        step, g, gradient = steps[index], cotangents[index], None
        if step.operation is not None and g is not None:
            inputs = [values[i] for i in step.inputs]
            if isinstance(step.operation, Weights):
                gradient = step.operation.layer.gradient_m2(inputs[0], g)
            elif isinstance(step.operation, Depthwise):
                gradient = step.operation.gradient_m2(values[index], g)
            passed = step.operation.backward(inputs, values[index], g, fields)
            for i, x, result in zip(step.inputs, inputs, passed, strict=True):
                if result is not None and not x.is_known:
                    cotangents[i] = sum_cotangents(cotangents[i], result)
        moments = TensorMoments(step.name, values[index], g, gradient)
        if summarized is not None:
            moments = moments.summary(index in summarized)
            values[index] = cotangents[index] = g = None
        results.append(moments)
    return results[::-1]


def forward(
    steps: Sequence[Step], images: Float[Tensor, "image channel *position"], fields: Fields
) -> list[FeatureMap]:
    """Compute the distributions of the outputs of all steps."""
    values: list[FeatureMap] = []
    for step in steps:
        values.append(forward_step(step, values, images, fields))
    return values


def forward_step(
    step: Step,
    values: Sequence[FeatureMap],
    images: Float[Tensor, "image channel *position"],
    fields: Fields,
) -> FeatureMap:
    """Compute the distribution of a step's output from those of the earlier steps.

    The images are a tensor of known channels.
    """
    if step.operation is None:
        return FeatureMap((Group(images.shape[1], known_channels(images)),))
    return step.operation.forward([values[i] for i in step.inputs], fields)


def output_cotangent(output: FeatureMap, fields: Fields) -> FeatureMap:
    """Return the random cotangent at the output, of mean square 1."""
    points = output.groups[0].channel.points
    gaussian = Gaussian(torch.eye(points, dtype=torch.float64))
    return FeatureMap((Group(output.n_channels, fields.new(output.shape, gaussian)),))
