"""Gradient clipping: changes gradients between the backward pass and the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

Tensors = dict[str, Tensor]

Bound = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LayerFactor = Annotated[float, Field(ge=0, allow_inf_nan=False)]
BiasGradient = Literal["own", "mean_of_weights", "zero"]


@runtime_checkable
class ClipRule(Protocol):
    """Protocol of a clipping rule (an option of `conf/clip/`)."""

    def apply(self, grads: Tensors) -> Tensors:
        """Return the clipped gradients."""


@dataclass(frozen=True)
class NoClip:
    """No clipping."""

    def apply(self, grads: Tensors) -> Tensors:
        """Return the gradients unchanged."""
        return grads


@dataclass(frozen=True)
class ClipNorm:
    """Clipping by the norm of all gradients (Pascanu et al. 2013, algorithm 1).

    Equal to `torch.nn.utils.clip_grad_norm_`.

    Parameters
    ----------
    max_norm
        Bound on the Euclidean norm of the concatenated gradients.
    """

    max_norm: Bound = 1.0

    def apply(self, grads: Tensors) -> Tensors:
        """Return the gradients scaled to a joint norm of at most `max_norm`.

        If the norm is not finite, the gradients are returned unchanged. (torch would turn inf into
        NaN and all other gradients into zeros, and so hide the tensor that overflowed.)

        Examples
        --------
        >>> ClipNorm(max_norm=5.0).apply({"w": torch.tensor([30.0, 40.0])})
        {'w': tensor([3., 4.])}
        """
        # float64: the square of a large float16 or float32 gradient overflows.
        norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in grads.values()]
        norm = torch.stack(norms).norm()
        shrink = (self.max_norm / (norm + 1e-6)).clamp(max=1.0)
        factor = torch.where(norm.isfinite(), shrink, torch.ones_like(shrink))
        return {name: _scaled(grad, factor) for name, grad in grads.items()}


@dataclass(frozen=True)
class ClipValue:
    """Clipping of each entry by its absolute value, equal to `torch.nn.utils.clip_grad_value_`.

    An infinite entry becomes `max_value`; NaN stays NaN.

    Parameters
    ----------
    max_value
        Bound on the absolute value.
    """

    max_value: Bound = 1.0

    def apply(self, grads: Tensors) -> Tensors:
        """Return the gradients with all entries in [-max_value, max_value]."""
        return {name: g.clamp(-self.max_value, self.max_value) for name, g in grads.items()}


@dataclass(frozen=True)
class Clip:
    """Change of the gradients in three steps: replace those of biases, multiply by factors, clip.

    Parameters
    ----------
    rule
        The option chosen in `conf/clip/`.
    factors
        Factors by layer name; each multiplies the gradients of the layer's weight and bias. 0
        freezes the layer (except for weight decay). Other layers keep their gradients.
    bias
        Gradient that biases get. `own`: the derivative of the loss. `mean_of_weights`: the mean of
        the gradients of the weights into the same unit (a mistake found in published code).
        `zero`: biases are not updated. Layers with one-dimensional weights (normalization layers)
        always use `own`.
    """

    rule: ClipRule
    factors: Mapping[str, LayerFactor] = field(default_factory=dict)
    bias: BiasGradient = "own"

    def apply(self, grads: Tensors) -> Tensors:
        """Return the gradients for the optimizer.

        Parameters
        ----------
        grads
            Gradients by parameter name, `LAYER.weight` and `LAYER.bias`; not modified.

        Examples
        --------
        >>> clip = Clip(NoClip(), factors={"conv1": 0.5})
        >>> clip.apply({"conv1.bias": torch.ones(1), "fc1.bias": torch.ones(1)})
        {'conv1.bias': tensor([0.5000]), 'fc1.bias': tensor([1.])}
        """
        if self.bias != "own":
            grads = {name: self._replaced(name, grads) for name in grads}
        return self.rule.apply(
            {name: self._times_factor(name, grad) for name, grad in grads.items()}
        )

    def _replaced(self, name: str, grads: Tensors) -> Tensor:
        """Return a parameter's gradient after applying the option `bias` (if it is a bias)."""
        layer, _, kind = name.rpartition(".")
        weight = grads.get(f"{layer}.weight")
        if kind != "bias" or weight is None or weight.ndim < 2:
            return grads[name]
        if self.bias == "zero":
            return torch.zeros_like(grads[name])
        return weight.flatten(1).mean(1)

    def _times_factor(self, name: str, grad: Tensor) -> Tensor:
        layer = name.rpartition(".")[0]
        return grad * self.factors[layer] if layer in self.factors else grad


def _scaled(grad: Tensor, factor: Tensor) -> Tensor:
    # In half precision the factor may underflow although the product would not.
    wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
    return (factor * wide).to(grad.dtype)
