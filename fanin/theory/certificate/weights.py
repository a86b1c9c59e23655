"""Moments of a network's weights (declared, given or estimated), and networks sampled from them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.diagnosis.inputs import check_inputs
from fanin.diagnosis.weights import check_weights
from fanin.errors import FaninWarning, InputError
from fanin.images import check_model, subsample, to_images
from fanin.inits import (
    Init,
    Moments,
    Scheme,
    WeightLayer,
    WeightShape,
    initialize,
    to_init,
    weight_layers,
)
from fanin.inits.weight_shape import check_weights_are_parameters
from fanin.seeds import make_generator
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import LayerMoments, declared_moments
from fanin.theory.network import Named

InitLike = Init | Scheme | str | Mapping[str, LayerMoments]
Source = Literal["declared", "given", "estimated"]
# Estimated means within this many standard errors of 0 are set to 0. Such small means are rarely
# intended, and with a non-zero mean the theories have to sample.
MEAN_THRESHOLD = 4.0


@dataclass(frozen=True)
class WeightMoments:
    """Moments of every weight layer, and their source.

    Attributes
    ----------
    moments
        Moments by layer name.
    source
        `declared` by an init scheme, `given` as numbers, or `estimated` from the model's current
        weights. A variance estimated from n Gaussian weights has a relative standard error of
        sqrt(2 / n), for example 3 % for the 1,728 weights of a 3x3 convolution from 3 to 64
        channels.
    init
        The init that declares the moments, or None.
    """

    moments: Mapping[str, LayerMoments]
    source: Source
    init: Init | None


def prepare_inputs(
    function: str,
    model: nn.Module,
    images: Any,
    labels: Any = None,
    *,
    max_images: int | None,
    quiet: bool,
) -> tuple[nn.Module, Float[Tensor, "image ..."], Tensor | None, int]:
    """Check a model and images; return copies in float64 on the CPU, with labels.

    Parameters
    ----------
    function
        Name of the calling function, for the message about subsampling.
    model, images, labels, max_images, quiet
        Arguments of `certify`.

    Returns
    -------
    tuple
        The model, at most `max_images` images, their labels, and the number of images given.

    Raises
    ------
    InputError
        An argument is invalid.
    """
    check_model(model)
    check_weights_are_parameters(model)
    if torch.is_inference_mode_enabled():
        raise InputError(f"call {function} outside torch.inference_mode(), which keeps no graph")
    given = to_images(images).detach().to("cpu", torch.float64)
    labels = None if labels is None else torch.as_tensor(labels)
    for finding in check_inputs({"images": given}):
        if not quiet and function != "certify":  # a certificate has the findings itself
            warnings.warn(f"{finding.text} To fix: {finding.fix}", FaninWarning, stacklevel=3)
    inputs, labels = subsample(given, max_images, labels)
    if len(inputs) < len(given) and not quiet:
        print(
            f"{function}: uses {len(inputs)} of the {len(given)} images, evenly spaced;"
            f" max_images={len(given)} uses all",
            file=sys.stderr,
        )
    return cpu_copy(model), inputs, labels, len(given)


def resolve_moments(model: nn.Module, init: InitLike | None) -> WeightMoments:
    """Return the moments of a model's weight layers.

    Parameters
    ----------
    model
        The model. Its weights are read only if `init` is None.
    init
        An `Init`, a scheme, its name, or moments by layer name. None estimates the moments from
        the model's current weights.

    Raises
    ------
    ConfigError
        `init` is an unknown name or has another type.
    UnpredictableLayer
        The scheme declares no moments.
    InputError
        The current weights are needed and are not finite.

    Examples
    --------
    >>> from fanin.inits import HeNormal
    >>> resolve_moments(nn.Sequential(nn.Linear(8, 4)), HeNormal()).moments["0"].weight
    Moments(mean=0.0, var=0.25)
    """
    if init is None:
        for finding in check_weights(model):
            raise InputError(f"{finding.text} To fix: {finding.fix}")
        layers = weight_layers(model).items()
        return WeightMoments(
            {name: _estimated(name, layer) for name, layer in layers}, "estimated", None
        )
    if isinstance(init, Mapping):
        return WeightMoments(init, "given", None)
    init = to_init(init)
    return WeightMoments(declared_moments(model, init), "declared", init)


def _estimated(name: str, layer: WeightLayer) -> LayerMoments:
    weight, bias = layer.weight, layer.bias
    if weight.is_meta:
        raise UnpredictableLayer(
            name, "its weights are on the meta device and hold no values; pass init=..."
        )
    taps = weight.detach().double().cpu().flatten(2) if weight.ndim > 2 else None
    empty = None if taps is None else (taps == 0).all(0).all(0)
    if taps is not None and empty is not None and empty.any() and not empty.all():
        # Some kernel taps are 0 for all channels, as in delta-orthogonal kernels.
        var = taps.square().mean((0, 1)).reshape(weight.shape[2:])
        return LayerMoments(Moments(0.0, var), estimated_moments(bias))
    return LayerMoments(estimated_moments(weight), estimated_moments(bias))


def estimated_moments(entries: Tensor | None) -> Moments:
    """Estimate mean and variance from a sampled tensor; None has mean and variance 0.

    A mean within 4 standard errors of 0 is set to 0. A constant tensor gives exact results.
    """
    if entries is None:
        return Moments(0.0, 0.0)
    flat = entries.detach().double().cpu().flatten()
    if bool((flat == flat[0]).all()):
        return Moments(float(flat[0]), 0.0)
    mean, var = float(flat.mean()), float(flat.var(correction=0))
    if abs(mean) < MEAN_THRESHOLD * (var / len(flat)) ** 0.5:
        return Moments(0.0, float(flat.square().mean()))
    return Moments(mean, var)


SEPARATOR = "/"  # replaces the dots of module paths, which module names cannot contain


def draw_networks(
    model: nn.Module, weights: WeightMoments, draws: int, seed: int = 0, purpose: str = "measure"
) -> Iterator[nn.Module]:
    """Yield float64 copies of a model with newly drawn weights.

    If the moments are declared, their init draws the weights. If they are given, the weights are
    Gaussian. If they are estimated, the only network is a copy of the model itself. Different
    values of `purpose` give different draws.
    """
    if weights.source == "estimated":
        yield cpu_copy(model)
        return
    for number in range(draws):
        copy = cpu_copy(model)
        stream_of = partial(make_generator, purpose, seed, number)
        if weights.init is not None:
            initialize(copy, weights.init, stream_of)
        else:
            _gaussian(copy, weights, stream_of)
        yield copy


def cpu_copy(model: nn.Module) -> nn.Module:
    """Return a float64 copy of a model on the CPU.

    Tensors that a forward pass has stored in the model are copied without their history.

    Raises
    ------
    InputError
        An attribute of the model cannot be copied.
    """
    stored = [value for module in model.modules() for value in vars(module).values()]
    results = [value for value in stored if isinstance(value, Tensor) and not value.is_leaf]
    try:
        copy = deepcopy(model, {id(value): value.detach().clone() for value in results})
    except (TypeError, RuntimeError) as error:
        raise InputError(f"the model cannot be copied by copy.deepcopy: {error}") from error
    return copy.to("cpu", torch.float64)


def build_sequential(parts: Sequence[Named]) -> nn.Sequential:
    """Return modules as a sequential network, with encoded names (see `decode_name`)."""
    net = nn.Sequential()
    for name, module in parts:
        net.add_module(encode_name(name), module)
    return net


def encode_name(name: str) -> str:
    """Convert a module path to a module name."""
    return name.replace(".", SEPARATOR)


def decode_name(name: str) -> str:
    """Convert a module name of `build_sequential` back to a module path."""
    return name.replace(SEPARATOR, ".")


@torch.no_grad()
def run_modules(
    parts: Sequence[Named], images: Float[Tensor, "image ..."], seed: int = 0
) -> Float[Tensor, "image ..."]:
    """Apply modules to images, one after the other."""
    x = images
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)  # dropout masks
        for _, module in parts:
            x = module(x.clone())
    return x


@torch.no_grad()
def _gaussian(
    model: nn.Module, weights: WeightMoments, stream_of: Callable[[str], torch.Generator]
) -> None:
    for name, module in weight_layers(model).items():
        if name not in weights.moments:
            continue
        layer, shape = weights.moments[name], WeightShape.of(module)
        module.weight.copy_(_normal(shape, layer.weight, stream_of(f"{name}.weight")))
        if module.bias is not None:
            column = WeightShape(shape.out_features, 1)
            module.bias.copy_(_normal(column, layer.bias, stream_of(f"{name}.bias")).flatten())


def _normal(shape: WeightShape, moments: Moments, stream: torch.Generator) -> Tensor:
    z = torch.randn(shape.shape, generator=stream, dtype=torch.float64)
    return moments.mean + torch.as_tensor(moments.var, dtype=torch.float64).sqrt() * z
