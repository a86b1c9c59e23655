"""An init scheme, from wherever it comes: this package, another one, or a bare function."""

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

    It may also have `moments(weight) -> Moments | None`, which the theory reads (absent or None
    means unknown), and `bias(weight, layer) -> Scheme`, biases of its own: drawn as the weight of a
    linear layer with one input.
    """

    def sample(self, weight: WeightShape, generator: torch.Generator) -> Tensor:
        """Draw a weight tensor of shape `weight.shape`."""


@runtime_checkable
class CalibratedScheme(Scheme, Protocol):
    """A scheme that changes the weights once more, by looking at data."""

    def calibrate(self, model: nn.Module, images: Tensor, layers: Collection[str]) -> None:
        """Change the weights of the layers of those names in place."""


@dataclass(frozen=True)
class LayerPlace:
    """The place of a layer in its net, for schemes whose biases depend on that (AlexNet 2012)."""

    name: str
    is_output: bool = False


class GaussianScheme:
    """Base of schemes with independent Gaussian entries of the declared `moments`.

    Draws are float64 on the CPU, whatever the model's dtype and device: so one seed means one set
    of weights, rounded to float32 or bfloat16 afterwards.
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
    """Base of schemes with independent uniform entries of the declared `moments`.

    They lie within sqrt(3 var) of the mean.
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
    """A bare function `f(weight, generator, **arguments)` as a scheme of unknown moments.

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
