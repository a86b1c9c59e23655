"""How one layer of a model is drawn: a scheme's weights times a gain, and biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float64
from pydantic import Field, FiniteFloat
from torch import Tensor

from fanin.errors import ConfigError
from fanin.inits.constant import Constant
from fanin.inits.layers import LayerPlace
from fanin.inits.normal import Normal
from fanin.inits.scheme import Scheme
from fanin.inits.weight_shape import Moments, WeightShape


@dataclass(frozen=True)
class NormalBias:
    """N(mean, std^2) biases."""

    mean: FiniteFloat = 0.0
    std: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0


@dataclass(frozen=True)
class LayerInit:
    """How one layer is drawn.

    Parameters
    ----------
    scheme
        What draws the weights.
    place
        Which layer it is, for schemes whose biases depend on it.
    gain
        Multiplies the weights, mean and standard deviation alike; not the biases.
    bias
        None: the scheme's own, which are 0 unless it says otherwise. A number: that constant.
    """

    scheme: Scheme
    place: LayerPlace
    gain: float = 1.0
    bias: float | NormalBias | None = None

    def weight_moments(self, weight: WeightShape) -> Moments | None:
        """Mean and variance of a weight, gain included; None if only data tells."""
        moments = _moments(self.scheme, weight)
        return moments and moments.scaled(self.gain)

    def sample_weight(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        """Draw the layer's weight, gain included.

        Raises
        ------
        ConfigError
            The scheme returned something else than a tensor of the weight's shape.
        """
        return self.gain * _sample(self.scheme, weight, generator)

    def bias_moments(self, weight: WeightShape) -> Moments | None:
        """Mean and variance of a bias; None if unknown."""
        return _moments(self._bias_scheme(weight), _as_weight(weight))

    def sample_bias(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, " out"]:
        """Draw the layer's biases."""
        return _sample(self._bias_scheme(weight), _as_weight(weight), generator).flatten()

    def _bias_scheme(self, weight: WeightShape) -> Scheme:
        if isinstance(self.bias, NormalBias):
            return Normal(mean=self.bias.mean, std=self.bias.std)
        own = getattr(self.scheme, "bias", None)
        if self.bias is None and callable(own):
            return own(weight, self.place)
        return Constant(self.bias or 0.0)


def _moments(scheme: Scheme, weight: WeightShape) -> Moments | None:
    declared = getattr(scheme, "moments", None)
    return declared(weight) if callable(declared) else None


def _sample(scheme: Scheme, weight: WeightShape, generator: torch.Generator) -> Tensor:
    sampled = scheme.sample(weight, generator)
    if not isinstance(sampled, Tensor) or tuple(sampled.shape) != weight.shape:
        got = tuple(sampled.shape) if isinstance(sampled, Tensor) else type(sampled).__name__
        raise ConfigError(
            f"init: {type(scheme).__name__}.sample should return a tensor of shape {weight.shape},"
            f" got {got}"
        )
    return sampled.to("cpu", torch.float64)


def _as_weight(weight: WeightShape) -> WeightShape:
    """The biases of a layer as a weight tensor of one column."""
    return WeightShape(out_features=weight.out_features, in_features=1)
