"""Layer kinds: a module's rules in each theory, and the steps that rules return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.errors import FaninError
from fanin.theory.elementwise import Function

Maps = Float[Tensor, "image channel *position"]
Vectors = Float[Tensor, "draw image unit"]
DenseStep = Callable[[Vectors, torch.Generator], Vectors]
"""Applies a module to the units of drawn networks; the generator is for dropout masks."""


class UnpredictableLayer(FaninError):
    """A layer that a theory has no formula for; `theory` names the theory once it is known."""

    theory: str | None = None

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"no prediction for layer {name or '(the whole model)'}: {reason}")
        self.name = name


class Rejected(Exception):
    """Raised by a rule for a module that it has no formula for; the message is the reason."""


@dataclass(frozen=True)
class Units:
    """A population of units as quadrature nodes, for each state.

    Attributes
    ----------
    value, slope
        The unit x at each node, and dx/dy for the pre-activation y of the weight layer before.
    share
        Weights of the nodes, which sum to 1.
    """

    value: Float[Tensor, "state node"]
    slope: Float[Tensor, "state node"]
    share: Float[Tensor, "state node"]

    def average(self, x: Float[Tensor, "state node"]) -> Float[Tensor, "state 1"]:
        """Average over the population."""
        return (self.share * x).sum(-1, keepdim=True)

    def times(self, factor: Tensor | float) -> Units:
        """The units multiplied by a constant."""
        return Units(self.value * factor, self.slope * factor, self.share)


@dataclass(frozen=True)
class Pointwise:
    """An elementwise module in the field."""

    function: Function


@dataclass(frozen=True)
class DropoutStep:
    """Dropout in training: a share p at 0, the rest 1 / (1 - p) times as large."""

    p: float
    whole_channel: bool

    @property
    def growth(self) -> float:
        """Of a second moment (Srivastava et al. 2014, section 10)."""
        return 1 / (1 - self.p) if self.p < 1 else 0.0


@dataclass(frozen=True)
class Mixing:
    """A module that combines points of a channel, run on samples of channels of the field.

    Attributes
    ----------
    forward
        Maps [image, channel, *position] to the same with other positions, every channel alike.
    backward
        From the forward's input and a cotangent at its output to the cotangent at its input. None:
        the forward's vector-Jacobian product, by autograd.
    linear
        Whether forward is linear without a constant: closed forms are then used for both ways.
    routes
        Whether a cotangent is passed on from point to point, and never split among several.
    normalizes
        Whether the size of the output is independent of that of the input.
    over_channels
        Whether channels act on each other, as infinitely many. The maps that forward and backward
        take are then [image, network, channel, *position].
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor] | None = None
    linear: bool = False
    routes: bool = False
    normalizes: bool = False
    over_channels: bool = False

    def __call__(self, x: Maps, networks: int) -> Maps:
        """Apply it to channels of so many networks, one network after the other."""
        if self.over_channels:
            return self._run(x.unflatten(1, (networks, -1))).flatten(1, 2)
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        made: Tensor = self.forward(x) if self.backward is None else _WithBackward.apply(x, self)
        return made

    def shape_after(self, images: int, positions: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a map that it makes of one of shape `positions`."""
        out = self(torch.zeros(images, 1, *positions, dtype=torch.float64), networks=1)
        return tuple(out.shape[2:])


class _WithBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Mixing) -> Tensor:
        ctx.save_for_backward(x)
        ctx.step = step
        return step.forward(x)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.step.backward(x, *cotangents), None


FieldStep = Pointwise | DropoutStep | Mixing


def unknown_units(module: nn.Module, units: Units) -> Units:
    raise Rejected(f"{type(module).__name__} is neither elementwise nor of a kind known here")


def unknown_vectors(module: nn.Module) -> DenseStep | None:
    raise Rejected(f"{type(module).__name__} is neither elementwise nor of a kind known here")


def unknown_field(module: nn.Module) -> FieldStep | None:
    raise Rejected(
        f"{type(module).__name__} is neither elementwise, nor a pooling, nor a dropout:"
        " no field theory"
    )


@dataclass(frozen=True)
class LayerKind:
    """Rules for one kind of module between two weight layers.

    A rule that is left out rejects the module in the theories that need it; a rule may also raise
    `Rejected` itself. Theories name the layer in the `UnpredictableLayer` that they raise then.

    Attributes
    ----------
    modules
        Module classes.
    scalar
        Theory `mean_field`, forward and backward: the units behind the module, with slopes.
    field
        Theory `field` and the first order of `finite_width`: the module as a `Pointwise`,
        `DropoutStep` or `Mixing` step, forward and backward; None where points and channels stay as
        they are.
    dense
        Theory `finite_width` of nets of linear layers: the module as a function of the units of
        drawn networks; None where it changes nothing.
    gain
        Theory `he`: the factor on the second moment.
    applies
        Restricts the kind to some modules of these classes.
    reshapes
        Whether it only rearranges numbers, so that it may follow the last weight layer.
    couples_images
        Whether images act on each other, so that the field takes them jointly.
    first_order
        Whether the first-order law of `finite_width` knows it; else networks are drawn.

    Examples
    --------
    Every pixel twice, along both axes. Units are only copied:

    >>> double = LayerKind(
    ...     (nn.UpsamplingNearest2d,),
    ...     scalar=lambda module, units: units,
    ...     field=lambda module: Mixing(module, linear=True),
    ... )
    >>> double.field(nn.UpsamplingNearest2d(scale_factor=2)).shape_after(1, (2, 3))
    (4, 6)
    """

    modules: tuple[type[nn.Module], ...]
    scalar: Callable[[nn.Module, Units], Units] = unknown_units
    field: Callable[[nn.Module], FieldStep | None] = unknown_field
    dense: Callable[[nn.Module], DenseStep | None] = unknown_vectors
    gain: Callable[[Any], float] = lambda module: 1.0
    applies: Callable[[Any], bool] = lambda module: True
    reshapes: bool = False
    couples_images: bool = False
    first_order: bool = True
