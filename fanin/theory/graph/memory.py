"""Memory that the fields of a graph need, from the lifetimes of its samples and covariances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fanin.theory.graph.channel import LARGE, samples_for
from fanin.theory.graph.elementary import Linear, Scale
from fanin.theory.graph.neighbours import GroupNorm
from fanin.theory.graph.operations import Add, NormalizeChannels, PerChannel, Weights
from fanin.theory.graph.propagate import Step
from fanin.theory.layer_kind import UnpredictableLayer

MAX_GIB = 16
# Samples and matrices of the largest field, in float64, while a step is computed. Measured on
# ResNet-8 and ResNet-20 with batch normalization, four images of 16x16 and 24x24: 5.9 to 9.9.
TEMPORARY = 7


@dataclass(frozen=True)
class FieldSizes:
    """Sizes of the fields of a graph.

    Attributes
    ----------
    steps
        Operations in order.
    positions
        Positions of each step's output, of one image.
    min_samples
        Minimum number of samples.
    """

    steps: tuple[Step, ...]
    positions: tuple[int, ...]
    min_samples: int

    def samples(self, images: float) -> int:
        """Return the number of samples of each field, for images that share one."""
        samples = max(self.min_samples, samples_for(max(1, int(images * max(self.positions)))))
        return samples + (2 - samples) % 4  # even, and no multiple of usual numbers of channels

    def expected_gib(self, images: float) -> float:
        """Return the memory of the forward and backward pass of images that share a field.

        All tensors of the forward pass exist until the backward pass reaches them, and a cotangent
        is freed after its step. So the peak is at the end of the forward pass.
        """
        samples = self.samples(images)
        points = [images * p for p in self.positions]
        matrices = zip(_count_covariances(self.steps), points, strict=True)
        total = sum(8 * n * p**2 for n, p in matrices)
        total += sum(_sample_bytes(*x, samples) for x in zip(self.steps, points, strict=True))
        total += TEMPORARY * max(8 * p * (p + samples) for p in points)
        return total / 2**30

    def check(self, images: int, *, coupled: bool) -> None:
        """Raise an error with the images that would fit if a field needs more than `MAX_GIB`.

        Parameters
        ----------
        images
            Number of images that share a field.
        coupled
            True if they do so because of batch normalization.
        """
        gib = self.expected_gib(images)
        if gib <= MAX_GIB:
            return
        fitting = [n for n in range(1, images) if self.expected_gib(n) <= MAX_GIB]
        if fitting:
            n = fitting[-1]
            advice = f"use at most {n} of them (max_images={n}; in a sweep probe.size={n})"
        else:
            sides = [side for side in range(5, 100, 5) if self._fits(side)]
            advice = f"images of {max(sides, default=1)} % of the width and height would fit"
        if coupled and images > 1:
            advice += (
                ", or call model.eval(), because batch normalization by running statistics does not"
                " couple the images"
            )
        several = f"{images} images that share a field" if images > 1 else "an image"
        raise UnpredictableLayer(
            "",
            f"theory `field` needs about {gib:.0f} GiB for {several}, and its limit is {MAX_GIB};"
            f" {advice}",
        )

    def _fits(self, side: int) -> bool:
        """Return True if one image fits whose sides have a percentage of their length."""
        return self.expected_gib((side / 100) ** 2) <= MAX_GIB


def _sample_bytes(step: Step, points: float, samples: int) -> float:
    """Return the memory of a step's samples; large ones are float32, or computed when read."""
    numbers = points * samples
    if step.operation is None:
        return 0
    if numbers <= LARGE:
        return 8 * numbers
    is_cheap = isinstance(step.operation, PerChannel | NormalizeChannels | GroupNorm)
    return 0 if is_cheap else 4 * numbers


def _count_covariances(steps: Sequence[Step]) -> list[int]:
    """Return how many matrices of all pairs of its points each step keeps.

    A Gaussian tensor keeps its covariance. The input of a weight layer keeps its products, and so
    do the tensors from which closed forms compute them.
    """
    is_gaussian: list[bool] = []
    has_products = [False] * len(steps)
    for step in steps:
        is_weights = isinstance(step.operation, Weights)
        is_linear = _is_linear(step) or isinstance(step.operation, Add)
        is_gaussian.append(is_weights or (is_linear and all(is_gaussian[i] for i in step.inputs)))
        if is_weights:
            source = step.inputs[0]
            has_products[source] = True
            while _is_linear(steps[source]):
                (source,) = steps[source].inputs
                has_products[source] = True
    return [cov + products for cov, products in zip(is_gaussian, has_products, strict=True)]


def _is_linear(step: Step) -> bool:
    """Return True if the step has the products of its output in closed form from its input's."""
    operation = step.operation
    if isinstance(operation, PerChannel):
        return isinstance(operation.rule, Linear | Scale)
    return isinstance(operation, NormalizeChannels)
