"""A scheme with a gain, biases and exceptions for single layers, and drawing a model with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from jaxtyping import Float, Float64
from pydantic import Field, FiniteFloat
from torch import Tensor, nn

from fanin.errors import ConfigError, nearest
from fanin.inits.distributions import Constant, Normal
from fanin.inits.scheme import CalibratedScheme, LayerPlace, Scheme
from fanin.inits.weight_shape import Moments, WeightShape, weight_layers


@dataclass(frozen=True)
class NormalBias:
    """N(mean, std^2) biases."""

    mean: FiniteFloat = 0.0
    std: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0


@dataclass(frozen=True)
class LayerInit:
    """A layer's scheme, gain and biases.

    Parameters
    ----------
    scheme
        Draws the weights.
    gain
        Multiplies the weights, mean and standard deviation alike; not the biases.
    bias
        None: the scheme's own, which are 0 unless it says otherwise. A number: that constant.
    place
        For schemes whose biases depend on it; `Init` fills it in.
    """

    scheme: Scheme
    gain: float = 1.0
    bias: float | NormalBias | None = None
    place: LayerPlace = field(default=LayerPlace(""))

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


@dataclass(frozen=True)
class Init:
    """A scheme with a gain, biases and exceptions for single layers.

    Parameters
    ----------
    scheme, gain, bias
        As in `LayerInit`, for all layers.
    layers
        By layer name, how that layer is drawn instead.

    Examples
    --------
    >>> from fanin.inits import HeNormal, LayerInit, Normal
    >>> init = Init(HeNormal(), layers={"conv1": LayerInit(Normal(std=0.02), bias=1.0)})
    >>> init.for_layer("conv1").scheme, init.for_layer("conv2").scheme
    (Normal(std=0.02, mean=0.0), HeNormal(fan='fan_in', negative_slope=0.0))
    """

    scheme: Scheme
    gain: float = 1.0
    bias: float | NormalBias | None = None
    layers: Mapping[str, LayerInit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, layer in self.layers.items():
            if not isinstance(layer, LayerInit):
                raise ConfigError(
                    f"init.layers.{name}: expected a fanin.inits.LayerInit, got {layer!r}"
                )

    def for_layer(self, name: str, is_output: bool = False) -> LayerInit:
        """Return how the layer of that name is drawn."""
        layer = self.layers.get(name) or LayerInit(self.scheme, self.gain, self.bias)
        return replace(layer, place=LayerPlace(name, is_output))

    def for_model(self, model: nn.Module) -> dict[str, LayerInit]:
        """Return how each weight layer of a model is drawn, by name; the last is the output layer.

        Raises
        ------
        ConfigError
            `layers` names a layer that the model lacks.
        """
        names = list(weight_layers(model))
        for name in self.layers:
            if name not in names:
                raise ConfigError(f"init.layers.{name}: no such layer; {nearest(name, names)}")
        return {name: self.for_layer(name, is_output=name == names[-1]) for name in names}


@torch.no_grad()
def initialize(
    model: nn.Module,
    init: Init,
    seed_of: Callable[[str], torch.Generator],
    images: Float[Tensor, "image channel height width"] | None = None,
) -> None:
    """Draw all weights and biases of a model's linear and convolution layers, in place.

    Every tensor has a random stream of its own, named after it, so that another depth or another
    scheme in one layer changes no other layer's draw. Other layers keep what torch gave them
    (normalization: weight 1, bias 0).

    Where a scheme calibrates on data (LSUV), the gain multiplies the calibrated weights at the
    end, so that it doesn't take part in what calibration evens out.

    Parameters
    ----------
    model
        Any module.
    init
        How to draw each layer.
    seed_of
        The generator for a tensor's name, such as `conv1.weight`.
    images
        A batch as the model takes it, for schemes that calibrate on data.

    Raises
    ------
    ConfigError
        `init.layers` names a layer that the model lacks; a scheme calibrates, and no images are
        given; a scheme's sample has the wrong shape.

    Examples
    --------
    >>> from fanin.inits import Constant
    >>> net = nn.Sequential(nn.Linear(2, 1))
    >>> initialize(net, Init(Constant(0.5), bias=1.0), lambda name: torch.Generator())
    >>> net[0].weight.tolist(), net[0].bias.tolist()
    ([[0.5, 0.5]], [1.0])
    """
    modules = weight_layers(model)
    layers = init.for_model(model)
    calibrated: dict[str, CalibratedScheme] = {}
    for name, layer in layers.items():
        module, weight = modules[name], WeightShape.of(modules[name])
        if isinstance(layer.scheme, CalibratedScheme):
            calibrated[name] = layer.scheme
            layer = replace(layer, gain=1.0)
        module.weight.copy_(layer.sample_weight(weight, seed_of(f"{name}.weight")))
        if module.bias is not None:
            module.bias.copy_(layer.sample_bias(weight, seed_of(f"{name}.bias")))
    if not calibrated:
        return
    if images is None:
        kinds = sorted({type(scheme).__name__ for scheme in calibrated.values()})
        raise ConfigError(f"init: {', '.join(kinds)} calibrates on data, and no images were given")
    # One layer at a time, in forward order, also where layers differ in the scheme's settings.
    for name, scheme in calibrated.items():
        scheme.calibrate(model, images, [name])
    for name in calibrated:
        modules[name].weight.mul_(layers[name].gain)


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
