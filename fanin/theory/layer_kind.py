"""`LayerKind`: the rules that tell each theory how to treat a module, and their result types."""

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
"""Function that applies a module to sampled networks' units; the generator draws dropout masks."""


class UnpredictableLayer(FaninError):
    """Error: a theory has no formula for a layer.

    Attributes
    ----------
    name
        Module path of the layer; empty for the whole model.
    theory
        Name of the theory; None if unknown.
    """

    theory: str | None = None

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"no prediction for {f'layer {name}' if name else 'the model'}: {reason}")
        self.name = name


class UnsupportedModule(Exception):
    """Raised by a rule for a module that it cannot handle. The message gives the reason."""


@dataclass(frozen=True)
class Units:
    """Distribution of a layer's units as quadrature nodes, one set of nodes per state.

    A state is one pair of mean and variance of the pre-activations.

    Attributes
    ----------
    value
        Value x of the unit at each node.
    slope
        Derivative dx/dy with respect to the pre-activation y of the preceding weight layer.
    weight
        Quadrature weights, which sum to 1.
    """

    value: Float[Tensor, "state node"]
    slope: Float[Tensor, "state node"]
    weight: Float[Tensor, "state node"]

    def average(self, x: Float[Tensor, "state node"]) -> Float[Tensor, "state 1"]:
        """Return the mean of x over the distribution."""
        return (self.weight * x).sum(-1, keepdim=True)

    def scale(self, factor: Tensor | float) -> Units:
        """Return the units multiplied by a constant."""
        return Units(self.value * factor, self.slope * factor, self.weight)


@dataclass(frozen=True)
class Pointwise:
    """Step of theory `field` for an elementwise module."""

    function: Function


@dataclass(frozen=True)
class DropoutStep:
    """Step of theory `field` for dropout in training mode.

    A fraction p of the values is set to 0, and the others are multiplied by 1 / (1 - p).
    """

    p: float
    whole_channel: bool

    @property
    def growth(self) -> float:
        """Factor on the second moment (Srivastava et al. 2014, section 10)."""
        return 1 / (1 - self.p) if self.p < 1 else 0.0


@dataclass(frozen=True)
class Mixing:
    """Step of theory `field` for a module that combines positions of a channel.

    Unless it is linear, the step runs on sampled channels of the field.

    Attributes
    ----------
    forward
        Function of maps [image, channel, *position] that may change the positions and treats all
        channels in the same way.
    backward
        Function of the forward input and the output cotangent that returns the input cotangent.
        None uses autograd's vector-Jacobian product.
    linear
        True if forward is linear without a constant. Both directions then have closed forms.
    routes
        True if backward passes each output cotangent to a single input position (as max pooling
        does) instead of splitting it.
    normalizes
        True if the scale of the output does not depend on the scale of the input.
    over_channels
        True if channels interact, in the limit of infinitely many channels. Forward and backward
        then receive maps [image, network, channel, *position].
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor] | None = None
    linear: bool = False
    routes: bool = False
    normalizes: bool = False
    over_channels: bool = False

    def __call__(self, x: Maps, networks: int) -> Maps:
        """Apply the step to channels of several networks, concatenated along the channel axis."""
        if self.over_channels:
            return self._run(x.unflatten(1, (networks, -1))).flatten(1, 2)
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        y: Tensor = self.forward(x) if self.backward is None else _WithBackward.apply(x, self)
        return y

    def shape_after(self, images: int, positions: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output map for an input map of shape `positions`."""
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


def no_scalar_rule(module: nn.Module, units: Units) -> Units:
    raise UnsupportedModule(_NO_RULE.format(module=type(module).__name__))


def no_dense_rule(module: nn.Module) -> DenseStep | None:
    raise UnsupportedModule(_NO_RULE.format(module=type(module).__name__))


def no_field_rule(module: nn.Module) -> FieldStep | None:
    raise UnsupportedModule(
        f"{type(module).__name__} is neither elementwise nor a pooling or dropout that theory"
        " `field` supports; pass a LayerKind with a `field` rule in layer_kinds"
    )


_NO_RULE = (
    "{module} is neither elementwise nor a supported layer kind; pass a LayerKind for it in"
    " layer_kinds"
)


@dataclass(frozen=True)
class LayerKind:
    """Rules for one kind of module between two weight layers.

    A theory that needs a missing rule raises `UnpredictableLayer`. A rule may raise
    `UnsupportedModule`, which has the same effect.

    Attributes
    ----------
    modules
        Module classes that the rules apply to.
    scalar
        Rule of theory `mean_field`: returns the units after the module, with slopes.
    field
        Rule of theories `field` and `finite_width` (first order): returns a `Pointwise`,
        `DropoutStep` or `Mixing` step. None means that positions and channels do not change.
    dense
        Rule of theory `finite_width` for networks of linear layers: returns a function of the
        units of sampled networks. None means that the module changes nothing.
    gain
        Rule of theory `he`: returns the factor on the second moment.
    applies
        Predicate that restricts the kind to some modules of these classes.
    reshapes
        True if the module only rearranges values. It may then follow the last weight layer.
    couples_images
        True if images interact, as in batch normalization. Theory `field` then handles all images
        jointly.
    first_order
        True if the first-order formula of `finite_width` applies. Otherwise that theory samples
        channels or simulates networks.

    Examples
    --------
    A module that repeats every pixel along both axes:

    >>> upsample = LayerKind(
    ...     (nn.UpsamplingNearest2d,),
    ...     scalar=lambda module, units: units,
    ...     field=lambda module: Mixing(module, linear=True),
    ... )
    >>> upsample.field(nn.UpsamplingNearest2d(scale_factor=2)).shape_after(1, (2, 3))
    (4, 6)
    """

    modules: tuple[type[nn.Module], ...]
    scalar: Callable[[nn.Module, Units], Units] = no_scalar_rule
    field: Callable[[nn.Module], FieldStep | None] = no_field_rule
    dense: Callable[[nn.Module], DenseStep | None] = no_dense_rule
    gain: Callable[[Any], float] = lambda module: 1.0
    applies: Callable[[Any], bool] = lambda module: True
    reshapes: bool = False
    couples_images: bool = False
    first_order: bool = True
