"""Initialization of a model: a scheme with a gain, biases and overrides for single layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from jaxtyping import Float, Float64
from pydantic import Field, FiniteFloat
from torch import Tensor, nn

from fanin.errors import ConfigError, suggest
from fanin.inits.by_name import to_scheme
from fanin.inits.distributions import Constant, Normal, Zeros
from fanin.inits.scheme import CalibratedScheme, LayerContext, Scheme
from fanin.inits.weight_shape import (
    Moments,
    WeightShape,
    check_weights_are_parameters,
    weight_layers,
)


@dataclass(frozen=True)
class NormalBias:
    """N(mean, std^2) biases.

    Parameters
    ----------
    mean, std
        Mean and standard deviation.
    """

    mean: FiniteFloat = 0.0
    std: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0


@dataclass(frozen=True)
class LayerInit:
    """Scheme, gain and biases of one layer.

    Parameters
    ----------
    scheme
        Distribution of the weights, or its name, such as `he_normal`.
    gain
        Factor on the weights, and so on their mean and standard deviation. Biases are not
        multiplied.
    bias
        Value of all biases, or their normal distribution. None uses the biases that the scheme
        defines, or 0 if it defines none.
    context
        Name of the layer, for schemes with layer-dependent biases. `Init` sets it.

    Examples
    --------
    >>> from fanin.inits import HeNormal
    >>> LayerInit(HeNormal(), gain=2.0).weight_moments(WeightShape(10, 20))
    Moments(mean=0.0, var=0.4)
    """

    scheme: Scheme
    gain: float = 1.0
    bias: float | NormalBias | None = None
    context: LayerContext = field(default=LayerContext(""))

    def __post_init__(self) -> None:
        object.__setattr__(self, "scheme", to_scheme(self.scheme))

    def weight_moments(self, weight: WeightShape) -> Moments | None:
        """Return mean and variance of a weight after the gain; None if they are unknown."""
        moments = _moments(self.scheme, weight)
        return moments and moments.scaled(self.gain)

    def sample_weight(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, "out in *kernel"]:
        """Draw the layer's weight and multiply it by the gain.

        Raises
        ------
        ConfigError
            The scheme did not return a tensor of the weight's shape.
        """
        return self.gain * _sample(self.scheme, weight, generator)

    def bias_moments(self, weight: WeightShape) -> Moments | None:
        """Return mean and variance of a bias; None if they are unknown."""
        return _moments(self._bias_scheme(weight), _as_weight(weight))

    def sample_bias(
        self, weight: WeightShape, generator: torch.Generator
    ) -> Float64[Tensor, " out"]:
        """Draw the layer's biases."""
        return _sample(self._bias_scheme(weight), _as_weight(weight), generator).flatten()

    def _bias_scheme(self, weight: WeightShape) -> Scheme:
        if isinstance(self.bias, NormalBias):
            return Normal(mean=self.bias.mean, std=self.bias.std)
        scheme_bias = getattr(self.scheme, "bias", None)
        if self.bias is None and callable(scheme_bias):
            return scheme_bias(weight, self.context)
        return Constant(self.bias or 0.0)


@dataclass(frozen=True)
class Init:
    """Initialization of a model.

    Parameters
    ----------
    scheme, gain, bias
        As in `LayerInit`, for all layers that `layers` does not name.
    layers
        Overrides for single layers, by layer name.

    Raises
    ------
    ConfigError
        A value of `layers` is not a `LayerInit`, or `scheme` is unknown.

    Examples
    --------
    >>> Init("he_normal", gain=0.5).for_layer("conv1").gain
    0.5
    >>> from fanin.inits import HeNormal, LayerInit, Normal
    >>> init = Init(HeNormal(), layers={"conv1": LayerInit(Normal(std=0.02), bias=1.0)})
    >>> init.for_layer("conv1").scheme, init.for_layer("conv2").scheme
    (Normal(std=0.02, mean=0.0), HeNormal(fan='fan_in', negative_slope=0.0, per_group=False))
    """

    scheme: Scheme
    gain: float = 1.0
    bias: float | NormalBias | None = None
    layers: Mapping[str, LayerInit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scheme", to_scheme(self.scheme))
        for name, layer in self.layers.items():
            if not isinstance(layer, LayerInit):
                raise ConfigError(
                    f"init.layers.{name}: expected a fanin.inits.LayerInit, got {layer!r}"
                )

    def for_layer(self, name: str, is_output: bool = False) -> LayerInit:
        """Return the initialization of the layer of that name."""
        layer = self.layers.get(name) or LayerInit(self.scheme, self.gain, self.bias)
        return replace(layer, context=LayerContext(name, is_output))

    def for_model(self, model: nn.Module) -> dict[str, LayerInit]:
        """Return the initialization of each weight layer by name; the last is the output layer.

        Layers with an attribute `zero_init = True` are zero unless `layers` names them.

        Raises
        ------
        ConfigError
            `layers` names a layer that the model lacks, or a scheme does not apply to the model.
        """
        modules = weight_layers(model)
        output = next(reversed(modules), None)
        for name in self.layers:
            if name not in modules:
                raise ConfigError(f"init.layers.{name}: no such layer; {suggest(name, modules)}")
        schemes: dict[int, Mapping[str, Scheme]] = {}  # by scheme
        layers = {}
        for name, module in modules.items():
            layer = self.for_layer(name, is_output=name == output)
            if id(layer.scheme) not in schemes:
                for_model = getattr(layer.scheme, "for_model", None)
                schemes[id(layer.scheme)] = for_model(model) if callable(for_model) else {}
            is_zero = getattr(module, "zero_init", False) and name not in self.layers
            scheme = Zeros() if is_zero else schemes[id(layer.scheme)].get(name, layer.scheme)
            layers[name] = replace(layer, scheme=scheme)
        return layers


def to_init(init: Init | Scheme | str) -> Init:
    """Convert a scheme or the name of a scheme to an `Init`; return an `Init` unchanged.

    Raises
    ------
    ConfigError
        The name is unknown, or the argument has another type.

    Examples
    --------
    >>> to_init("he_normal").scheme.fan
    'fan_in'
    """
    return init if isinstance(init, Init) else Init(to_scheme(init))


@torch.no_grad()
def initialize(
    model: nn.Module,
    init: Init | Scheme | str,
    generator_for: Callable[[str], torch.Generator],
    images: Float[Tensor, "image channel height width"] | None = None,
) -> None:
    """Draw all weights and biases of a model's linear and convolution layers, in place.

    Every tensor has its own random stream, so changing the depth, or the scheme of one layer, does
    not change the draws of the other layers. Other modules keep their initialization
    (normalization: weight 1, bias 0), except the scalars that `SkipInit` sets.

    If a scheme calibrates on data (LSUV), the gain is applied after the calibration, which would
    otherwise undo it.

    Parameters
    ----------
    model
        Any module.
    init
        The initialization: an `Init`, a scheme, or its name.
    generator_for
        Returns the generator for the name of a tensor, such as `conv1.weight`.
    images
        Input batch of the model, for schemes that calibrate on data.

    Raises
    ------
    InputError
        A weight is computed, for example by `weight_norm`.
    ConfigError
        `init.layers` names a layer that the model lacks, a scheme does not apply to the model (such
        as `Fixup` without residual branches), a scheme calibrates on data and `images` is None, or
        a scheme's sample has the wrong shape.

    Examples
    --------
    >>> from fanin.inits import Constant
    >>> net = nn.Sequential(nn.Linear(2, 1))
    >>> initialize(net, Init(Constant(0.5), bias=1.0), lambda name: torch.Generator())
    >>> net[0].weight.tolist(), net[0].bias.tolist()
    ([[0.5, 0.5]], [1.0])
    """
    check_weights_are_parameters(model)
    modules = weight_layers(model)
    init = to_init(init)
    layers = init.for_model(model)
    calibrated: dict[str, CalibratedScheme] = {}
    for name, layer in layers.items():
        module, weight = modules[name], WeightShape.of(modules[name])
        if isinstance(layer.scheme, CalibratedScheme):
            calibrated[name] = layer.scheme
            layer = replace(layer, gain=1.0)
        module.weight.copy_(layer.sample_weight(weight, generator_for(f"{name}.weight")))
        if module.bias is not None:
            module.bias.copy_(layer.sample_bias(weight, generator_for(f"{name}.bias")))
    set_scalars(model, init)
    if not calibrated:
        return
    if images is None:
        kinds = sorted({type(scheme).__name__ for scheme in calibrated.values()})
        raise ConfigError(
            f"init: {', '.join(kinds)} calibrates on data; pass images to initialize()"
        )
    # One layer at a time, in forward order, because the layers' schemes may differ.
    for name, scheme in calibrated.items():
        scheme.calibrate(model, images, [name])
    for name in calibrated:
        modules[name].weight.mul_(layers[name].gain)


def set_scalars(model: nn.Module, init: Init) -> None:
    """Set the learnable scalars that an init scheme sets, such as those of `SkipInit`, in place."""
    method = getattr(init.scheme, "set_scalars", None)
    if callable(method):
        method(model)


def _moments(scheme: Scheme, weight: WeightShape) -> Moments | None:
    moments = getattr(scheme, "moments", None)
    return moments(weight) if callable(moments) else None


def _sample(scheme: Scheme, weight: WeightShape, generator: torch.Generator) -> Tensor:
    sampled = scheme.sample(weight, generator)
    if not isinstance(sampled, Tensor) or tuple(sampled.shape) != weight.shape:
        result = tuple(sampled.shape) if isinstance(sampled, Tensor) else type(sampled).__name__
        raise ConfigError(
            f"init: {type(scheme).__name__}.sample must return a tensor of shape {weight.shape}, "
            f"got {result}"
        )
    return sampled.to("cpu", torch.float64)


def _as_weight(weight: WeightShape) -> WeightShape:
    """Return the shape of a layer's biases as a weight with one input."""
    return WeightShape(out_features=weight.out_features, in_features=1)
