"""The modules between two weight layers, as steps on a field of one channel's points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.elementwise import Function
from fanin.theory.layer_kind import (
    DropoutStep,
    FieldStep,
    Mixing,
    Pointwise,
    UnpredictableLayer,
)
from fanin.theory.layers import NamedLayer

Samples = Float[Tensor, "sample point"]


@dataclass(frozen=True)
class ClosedForm:
    """Steps whose moments have closed forms: linear ones around one elementwise function.

    Attributes
    ----------
    function
        Of the centred field, its mean already added.
    """

    before: tuple[Mixing, ...]
    function: Function
    after: tuple[Mixing | DropoutStep, ...]


@dataclass(frozen=True)
class Interlayer:
    """The steps between two weight layers, on maps of some shape for some images taken jointly.

    Attributes
    ----------
    pointwise_layers
        Those that act on single points, for quadrature (`mean_field.unit_moments`).
    names, steps
        All of them, in order.
    images, positions
        Maps side by side, and the shape of each.
    out_positions
        The shape after the last step.
    """

    pointwise_layers: tuple[NamedLayer, ...]
    names: tuple[str, ...]
    steps: tuple[FieldStep, ...]
    images_per_field: int
    positions: tuple[int, ...]
    out_positions: tuple[int, ...]

    @classmethod
    def of(
        cls, layers: Sequence[NamedLayer], images_per_field: int, positions: tuple[int, ...]
    ) -> Interlayer:
        """Read modules as steps.

        Raises
        ------
        UnpredictableLayer
            A module of a kind without a field rule, or that its kind rejects.
        """
        pairs = [(layer, step) for layer in layers if (step := layer.field()) is not None]
        out_positions = positions
        for layer, step in pairs:
            if isinstance(step, Mixing):
                try:
                    out_positions = step.shape_after(images_per_field, out_positions)
                except (RuntimeError, ValueError) as error:  # of one value alone: a ValueError
                    reason = f"its input has the wrong shape: {error}"
                    raise UnpredictableLayer(layer.name, reason) from error
        return cls(
            tuple(layer for layer, step in pairs if not isinstance(step, Mixing)),
            tuple(layer.name for layer, _ in pairs),
            tuple(step for _, step in pairs),
            images_per_field,
            positions,
            out_positions,
        )

    @property
    def pointwise(self) -> Function:
        """The elementwise functions one after the other."""
        return _composed([step.function for step in self.steps if isinstance(step, Pointwise)])

    @property
    def mixes_points(self) -> bool:
        """True if some step takes points together."""
        return any(isinstance(step, Mixing) for step in self.steps)

    @property
    def routes_only(self) -> bool:
        """True if a cotangent is only passed on, never shared out: maxima, and nothing linear."""
        return all(step.routes for step in self.steps if isinstance(step, Mixing))

    @property
    def normalizes(self) -> bool:
        """True if the output has a size of its own, whatever goes in."""
        return any(step.normalizes for step in self.steps if isinstance(step, Mixing))

    def closed_form(self, constant_mean: float) -> ClosedForm | None:
        """Read the steps, on a field of constant mean; None where their order is another."""
        before: list[Mixing] = []
        functions: list[Function] = []
        after: list[Mixing | DropoutStep] = []
        for step in self.steps:
            match step:
                case Pointwise(function) if not after:
                    functions.append(function)
                case Mixing() if step.linear and not functions:
                    before.append(step)
                case DropoutStep() if functions:
                    after.append(step)
                case Mixing() if step.linear:
                    after.append(step)
                case _:
                    return None
        if before and constant_mean != 0:  # a pooling's padding would make the mean uneven
            return None
        function = self.pointwise
        return ClosedForm(
            tuple(before),
            function if constant_mean == 0 else lambda u: function(u + constant_mean),
            tuple(after),
        )

    def apply(
        self, fields: Samples, stream: torch.Generator | None = None, n_fields: int = 1
    ) -> Samples:
        """Run the modules themselves, every sample being a channel.

        Parameters
        ----------
        fields
            Points of all images side by side.
        stream
            For dropout masks.
        n_fields
            How many networks, or images by themselves, the samples are of, one after the other.
        """
        x = fields.unflatten(-1, (self.images_per_field, *self.positions)).transpose(0, 1)
        for step in self.steps:
            match step:
                case Pointwise(function):
                    x = function(x)
                case DropoutStep():
                    x = x * _mask(x, step, stream)
                case Mixing():
                    x = step(x, n_fields)
        return x.transpose(0, 1).flatten(1)


def _composed(functions: Sequence[Function]) -> Function:
    def composed(x: Tensor) -> Tensor:
        for function in functions:
            x = function(x)
        return x

    return composed


def _mask(x: Tensor, step: DropoutStep, stream: torch.Generator | None) -> Tensor:
    shape = (*x.shape[:2], *(1 for _ in x.shape[2:])) if step.whole_channel else x.shape
    kept = torch.rand(shape, generator=stream) >= step.p
    return kept.to(x) * step.growth
