"""Read an `nn.Sequential` as weight layers, each with the modules that follow it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from fanin.inits.weight_shape import WeightLayer, WeightShape
from fanin.theory.elementwise import copied_state
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.layers import (
    CHANNEL_DROPOUT,
    DROPOUT,
    ELEMENTWISE,
    NamedLayer,
    find_kind,
)

Named = tuple[str, nn.Module]


@dataclass(frozen=True)
class Stage:
    """One weight layer and what follows it, up to the next weight layer.

    Attributes
    ----------
    fan_in, fan_out
        Inputs that one output sums over, and outputs that one input reaches (no border, stride 1).
    positions
        Output positions per channel of one image; 1 for a linear layer on a flat input.
    after
        The modules between this weight layer and the next.
    """

    name: str
    fan_in: int
    fan_out: int
    positions: int
    after: tuple[NamedLayer, ...]


@dataclass(frozen=True)
class Walk:
    """A network as theory sees it: what precedes the first weight layer, then the stages."""

    before: tuple[NamedLayer, ...]
    stages: tuple[Stage, ...]

    def enter(self, images: Float[Tensor, "image ..."]) -> Float[Tensor, "image ..."]:
        """Return what the first weight layer is fed, in float64."""
        x = images.detach().to("cpu", torch.float64)
        with torch.no_grad():
            for layer in self.before:
                x = functional_call(layer.module, copied_state(layer.module, "cpu"), (x,))
        return x


def walk(
    model: nn.Module, image_shape: tuple[int, ...], layer_kinds: Sequence[LayerKind] = ()
) -> Walk:
    """Split a sequence of modules at its weight layers.

    Nested sequences are flattened; names are the modules' paths. What follows the last weight
    layer is a head on the logits and kept in its `after`.

    Parameters
    ----------
    model
        An `nn.Sequential` of weight layers (linear, convolution) and whatever stands between.
    image_shape
        Channels, height, width.
    layer_kinds
        Kinds of layers beside the built-in ones.

    Raises
    ------
    UnpredictableLayer
        Weights inside something that is no sequence (a residual block, attention), of a kind
        without a formula (a transposed convolution), or used twice.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2704, 10))
    >>> [(s.name, s.fan_in, s.positions, len(s.after)) for s in walk(model, (1, 28, 28)).stages]
    [('0', 9, 676, 2), ('3', 2704, 1, 0)]
    """
    modules = list(flattened(model))
    for name, module in modules:
        _refuse_nested_weights(name, module, layer_kinds)
    splits = [i for i, (_, module) in enumerate(modules) if isinstance(module, WeightLayer)]
    if not splits:
        raise UnpredictableLayer("", "it has no weight layer")
    if len({id(modules[i][1]) for i in splits}) < len(splits):
        raise UnpredictableLayer("", "a weight layer is used twice: its draws are not independent")
    positions = _positions(modules, image_shape)

    def named(part: Sequence[Named]) -> tuple[NamedLayer, ...]:
        return tuple(NamedLayer.of(name, module, layer_kinds) for name, module in part)

    stages = []
    for i, end in zip(splits, [*splits[1:], len(modules)], strict=True):
        name, layer = modules[i]
        shape = WeightShape.of(layer)
        after = named(modules[i + 1 : end])
        stages.append(Stage(name, shape.fan_in, shape.fan_out, positions[i], after))
    return Walk(named(modules[: splits[0]]), tuple(stages))


def flattened(module: nn.Module, name: str = "") -> Iterator[Named]:
    """Yield the modules that a sequence runs, nested sequences flattened, by their paths."""
    if isinstance(module, nn.Sequential):
        # Not named_children(), which skips a module's second appearance.
        for key, child in zip(module._modules, module, strict=True):
            yield from flattened(child, f"{name}.{key}" if name else key)
        return
    yield name, module


def _refuse_nested_weights(name: str, module: nn.Module, layer_kinds: Sequence[LayerKind]) -> None:
    known = isinstance(module, WeightLayer) or find_kind(module, layer_kinds) is not ELEMENTWISE
    if not known and any(parameter.ndim > 1 for parameter in module.parameters()):
        kind = type(module).__name__
        raise UnpredictableLayer(name, f"{kind} has weights, and is no plain sequence of layers")


def _positions(modules: list[Named], image_shape: tuple[int, ...]) -> dict[int, int]:
    """Output positions of every weight layer, from a run on the meta device: shapes only."""
    images = 2  # batch normalization refuses one value per channel
    x = torch.empty((images, *image_shape), device="meta", dtype=torch.float64)
    positions = {}
    for i, (name, module) in enumerate(modules):
        if find_kind(module) in (DROPOUT, CHANNEL_DROPOUT):  # no shape changes, no mask is there
            continue
        try:
            x = functional_call(module, copied_state(module, "meta"), (x,))
        except RuntimeError as error:
            raise UnpredictableLayer(name, f"it can't follow what precedes it: {error}") from error
        if isinstance(module, WeightLayer):
            positions[i] = x.numel() // (images * WeightShape.of(module).out_features)
    return positions
