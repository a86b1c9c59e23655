"""The modules between two weight layers, as steps on one channel of a field."""

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
    """Steps whose moments have closed forms: one elementwise function between linear steps.

    Attributes
    ----------
    function
        Elementwise function of the field minus its mean. It adds the mean before it applies the
        activation.
    """

    before: tuple[Mixing, ...]
    function: Function
    after: tuple[Mixing | DropoutStep, ...]


@dataclass(frozen=True)
class Interlayer:
    """The steps between two weight layers, for maps of a fixed shape.

    Attributes
    ----------
    pointwise_layers
        Layers that act on single points, for quadrature (`mean_field.unit_moments`).
    names, steps
        All steps in order, and the names of their modules.
    images_per_field, positions
        Number of maps side by side in the field, and the shape of each map.
    out_positions
        Shape of a map after the last step.
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
        """Convert modules to steps.

        Raises
        ------
        UnpredictableLayer
            The kind of a module has no rule for theory `field`, or that rule rejects the module.
        """
        pairs = [(layer, step) for layer in layers if (step := layer.field()) is not None]
        out_positions = positions
        for layer, step in pairs:
            if isinstance(step, Mixing):
                try:
                    out_positions = step.shape_after(images_per_field, out_positions)
                except (RuntimeError, ValueError) as error:  # ValueError: normalizing one value
                    reason = f"its forward pass fails: {error}"
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
        """The composition of all elementwise functions."""
        return _composed([step.function for step in self.steps if isinstance(step, Pointwise)])

    @property
    def mixes_points(self) -> bool:
        """True if some step combines points."""
        return any(isinstance(step, Mixing) for step in self.steps)

    @property
    def routes_only(self) -> bool:
        """True if steps pass each cotangent to a single point (maxima) and never split it."""
        return all(step.routes for step in self.steps if isinstance(step, Mixing))

    @property
    def normalizes(self) -> bool:
        """True if the scale of the output does not depend on the input's scale."""
        return any(step.normalizes for step in self.steps if isinstance(step, Mixing))

    def closed_form(self, constant_mean: float) -> ClosedForm | None:
        """Return the closed form for a field of constant mean; None if the steps have none."""
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
        if before and constant_mean != 0:  # padding in a pooling would make the mean uneven
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
        """Run the modules on samples; each sample is a channel.

        Parameters
        ----------
        fields
            Samples of the points of all images side by side.
        stream
            Random generator of dropout masks.
        n_fields
            Number of fields. The samples of each field follow those of the field before it.
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
