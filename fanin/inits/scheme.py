"""Interface of init schemes, base classes, and an adapter for plain functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from fanin.inits.weight_shape import Moments, WeightShape


class Scheme(Protocol):
    """Interface of an init scheme.

    A scheme may have further methods. `moments(weight) -> Moments | None` returns the mean and
    variance of a weight, which theories need; they are unknown if the method is missing or returns
    None. `bias(weight, layer) -> Scheme` returns the scheme of the biases, which are drawn like the
    weights of a linear layer with one input. `for_model(model) -> Mapping[str, Scheme]` returns the
    layers that another scheme draws, by name, and raises ConfigError if the scheme does not apply
    to the model. `set_scalars(model)` sets parameters outside weight layers, in place.
    """

    def sample(self, weight: WeightShape, generator: torch.Generator) -> Tensor:
        """Draw a weight tensor of shape `weight.shape`."""


@runtime_checkable
class CalibratedScheme(Scheme, Protocol):
    """Interface of a scheme that adjusts drawn weights to data."""

    def calibrate(self, model: nn.Module, images: Tensor, layers: Collection[str]) -> None:
        """Adjust the weights of the named layers in place."""


@dataclass(frozen=True)
class LayerContext:
    """Layer to initialize, for schemes that treat layers differently (`Alexnet2012`).

    Parameters
    ----------
    name
        Name of the module in its model.
    is_output
        True for the last weight layer.
    """

    name: str
    is_output: bool = False


class GaussianScheme:
    """Base class of schemes with independent Gaussian weights.

    A subclass defines their mean and variance in the method `moments`. Draws are float64 on the
    CPU, so one seed gives the same weights for every dtype and device, except for the final
    rounding.
    """

    def moments(self, weight: WeightShape) -> Moments:
        raise NotImplementedError

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        moments = self.moments(weight)
        z = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        return moments.mean + moments.var**0.5 * z


class UniformScheme:
    """Base class of schemes with independent uniform weights.

    A subclass defines their mean and variance in the method `moments`. The weights lie within
    sqrt(3 var) of the mean.
    """

    def moments(self, weight: WeightShape) -> Moments:
        raise NotImplementedError

    def sample(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        moments = self.moments(weight)
        u = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
        return moments.mean + (3 * moments.var) ** 0.5 * (2 * u - 1)


@dataclass(frozen=True)
class FunctionScheme:
    """Scheme with unknown moments that calls a function `f(weight, generator, **arguments)`.

    Parameters
    ----------
    function
        Returns a tensor of shape `weight.shape`.
    arguments
        Further keyword arguments.

    Examples
    --------
    >>> def twos(weight, generator):
    ...     return torch.full(weight.shape, 2.0)
    >>> FunctionScheme(twos).sample(WeightShape(1, 2), torch.Generator())
    tensor([[2., 2.]])
    """

    function: Callable[..., Tensor]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def sample(self, weight: WeightShape, generator: torch.Generator) -> Tensor:
        return self.function(weight, generator, **self.arguments)
