"""Real networks beside the theory: fresh draws of the weights, cut into parts where need be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.inits import Moments, WeightShape, initialize, weight_layers
from fanin.seeds import generator
from fanin.theory.certificate.weights import Weights
from fanin.theory.walk import Named

SEPARATOR = "/"  # a module's name can't hold the dot of a nested one


def drawn(
    model: nn.Module, weights: Weights, draws: int, seed: int = 0, purpose: str = "measure"
) -> Iterator[nn.Module]:
    """Float64 copies of a model, each with weights of its own; other ones for another purpose.

    By the init that declared the moments; as Gaussians where moments were given; and where they
    were estimated from the model, the model itself, once: it is the one draw there is.
    """
    if weights.source == "estimated":
        yield on_cpu(model)
        return
    for number in range(draws):
        copy = on_cpu(model)
        stream_of = partial(generator, purpose, seed, number)
        if weights.init is not None:
            initialize(copy, weights.init, stream_of)
        else:
            _gaussian(copy, weights, stream_of)
        yield copy


def on_cpu(model: nn.Module) -> nn.Module:
    """A float64 copy on the CPU, in the mode that the model is in."""
    return deepcopy(model).to("cpu", torch.float64)


def leaves(model: nn.Module) -> list[Named]:
    """What a sequence runs, nested sequences flattened, with the modules' paths as names."""
    return list(_leaves("", model))


def sequence(parts: Sequence[Named]) -> nn.Sequential:
    """A part of a network as a network; `original_name` undoes what the names go through."""
    net = nn.Sequential()
    for name, module in parts:
        net.add_module(coded_name(name), module)
    return net


def coded_name(name: str) -> str:
    """A module's path as one name."""
    return name.replace(".", SEPARATOR)


def original_name(name: str) -> str:
    """The path that a module of `sequence` has in the whole network."""
    return name.replace(SEPARATOR, ".")


@torch.no_grad()
def outputs(
    parts: Sequence[Named], images: Float[Tensor, "image ..."], seed: int = 0
) -> Float[Tensor, "image ..."]:
    """What modules make of images, one after the other, in the mode they are in."""
    x = images
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)  # dropout masks
        for _, module in parts:
            x = module(x.clone())
    return x


def _leaves(name: str, module: nn.Module) -> Iterator[Named]:
    if isinstance(module, nn.Sequential):
        for key, child in zip(module._modules, module, strict=True):
            yield from _leaves(f"{name}.{key}" if name else key, child)
        return
    yield name, module


@torch.no_grad()
def _gaussian(
    model: nn.Module, weights: Weights, stream_of: Callable[[str], torch.Generator]
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
