"""Moments of a network's weights: declared by its init, given, or estimated from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.errors import ConfigError
from fanin.inits import Init, Moments, Scheme, WeightLayer, WeightShape, initialize, weight_layers
from fanin.seeds import make_generator
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import LayerMoments, declared_moments
from fanin.theory.network import Named

Source = Literal["declared", "given", "estimated"]
# An estimated mean within so many standard errors of 0 is taken for a declared 0: a real mean so
# small is seldom meant, and theory would have to follow it with particles.
MEAN_THRESHOLD = 4.0


@dataclass(frozen=True)
class WeightMoments:
    """Moments of every weight layer, and where they come from.

    Attributes
    ----------
    moments
        By layer name.
    source
        `declared` by an init scheme, `given` as numbers, or `estimated` from the model's own
        tensors. An estimate from n entries has a relative standard error of sqrt(2 / n) in the
        variance (Gaussian weights), so 3 % for the 1,728 weights of a 3x3 convolution from 3 to
        64 channels.
    init
        What declared them; None otherwise.
    """

    moments: Mapping[str, LayerMoments]
    source: Source
    init: Init | None


def resolve_moments(
    model: nn.Module, init: Init | Scheme | Mapping[str, LayerMoments] | None
) -> WeightMoments:
    """Moments of a model's weight layers, from whatever is known of them.

    Parameters
    ----------
    model
        Its weights are read only where `init` is None.
    init
        An `Init`, a bare scheme, moments by layer name, or None: the model was initialized by
        hand, and its own tensors tell.

    Raises
    ------
    ConfigError
        It is nothing of the above.
    UnpredictableLayer
        The scheme declares no moments.

    Examples
    --------
    >>> from fanin.inits import HeNormal
    >>> resolve_moments(nn.Sequential(nn.Linear(8, 4)), HeNormal()).moments["0"].weight
    Moments(mean=0.0, var=0.25)
    """
    if init is None:
        layers = weight_layers(model).items()
        return WeightMoments(
            {name: _estimated(name, layer) for name, layer in layers}, "estimated", None
        )
    if isinstance(init, Mapping):
        return WeightMoments(init, "given", None)
    if not isinstance(init, Init):
        if not callable(getattr(init, "sample", None)):
            raise ConfigError(
                f"init={init!r}: expected an fanin.inits.Init, a scheme with"
                " sample(weight, generator), moments by layer name, or None"
            )
        init = Init(init)
    return WeightMoments(declared_moments(model, init), "declared", init)


def _estimated(name: str, layer: WeightLayer) -> LayerMoments:
    weight, bias = layer.weight, layer.bias
    if weight.is_meta:
        raise UnpredictableLayer(name, "its weights hold no numbers (meta device); give an init")
    taps = weight.detach().double().cpu().flatten(2) if weight.ndim > 2 else None
    empty = None if taps is None else (taps == 0).all(0).all(0)
    if taps is not None and empty is not None and empty.any() and not empty.all():
        # Some taps are 0 throughout, as delta-orthogonal kernels have them.
        var = taps.square().mean((0, 1)).reshape(weight.shape[2:])
        return LayerMoments(Moments(0.0, var), estimated_moments(bias))
    return LayerMoments(estimated_moments(weight), estimated_moments(bias))


def estimated_moments(entries: Tensor | None) -> Moments:
    """Mean and variance of a draw_networks tensor; exact where all entries are alike, 0 where it is None.

    A mean within 4 standard errors of 0 is taken for 0.
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


SEPARATOR = "/"  # a module's name can't hold the dot of a nested one


def draw_networks(
    model: nn.Module, weights: WeightMoments, draws: int, seed: int = 0, purpose: str = "measure"
) -> Iterator[nn.Module]:
    """Float64 copies of a model, each with weights of its own; other ones for another purpose.

    By the init that declared the moments; as Gaussians where moments were given; and where they
    were estimated from the model, the model itself, once: it is the one draw there is.
    """
    if weights.source == "estimated":
        yield cpu_copy(model)
        return
    for number in range(draws):
        copy = cpu_copy(model)
        stream_of = partial(generator, purpose, seed, number)
        if weights.init is not None:
            initialize(copy, weights.init, stream_of)
        else:
            _gaussian(copy, weights, stream_of)
        yield copy


def cpu_copy(model: nn.Module) -> nn.Module:
    """A float64 copy on the CPU, in the mode that the model is in."""
    return deepcopy(model).to("cpu", torch.float64)


def build_sequential(parts: Sequence[Named]) -> nn.Sequential:
    """A part of a network as a network; `decode_name` undoes what the names go through."""
    net = nn.Sequential()
    for name, module in parts:
        net.add_module(encode_name(name), module)
    return net


def encode_name(name: str) -> str:
    """A module's path as one name."""
    return name.replace(".", SEPARATOR)


def decode_name(name: str) -> str:
    """The path that a module of `build_sequential` has in the whole network."""
    return name.replace(SEPARATOR, ".")


@torch.no_grad()
def run_modules(
    parts: Sequence[Named], images: Float[Tensor, "image ..."], seed: int = 0
) -> Float[Tensor, "image ..."]:
    """Apply modules to images, one after the other, in the mode they are in."""
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
        known, shape = weights.moments[name], WeightShape.of(module)
        module.weight.copy_(_normal(shape, known.weight, stream_of(f"{name}.weight")))
        if module.bias is not None:
            column = WeightShape(shape.out_features, 1)
            module.bias.copy_(_normal(column, known.bias, stream_of(f"{name}.bias")).flatten())


def _normal(shape: WeightShape, moments: Moments, stream: torch.Generator) -> Tensor:
    z = torch.randn(shape.shape, generator=stream, dtype=torch.float64)
    return moments.mean + torch.as_tensor(moments.var, dtype=torch.float64).sqrt() * z
