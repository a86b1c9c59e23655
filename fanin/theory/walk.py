"""Read an `nn.Sequential` as weight layers, each with the modules that follow it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from fanin.errors import FaninError
from fanin.inits.weight_shape import WeightLayer, WeightShape
from fanin.models.dropout import SeededDropout

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, SeededDropout)
NORMALIZATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)

Named = tuple[str, nn.Module]


class UnpredictableLayer(FaninError):
    """A layer that this rung of theory has no formula for."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"no prediction for layer {name or '(the whole model)'}: {reason}")
        self.name = name


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
        The modules between this weight layer and the next, with their names.
    """

    name: str
    fan_in: int
    fan_out: int
    positions: int
    after: tuple[Named, ...]


@dataclass(frozen=True)
class Walk:
    """A network as theory sees it: what precedes the first weight layer, then the stages."""

    before: tuple[Named, ...]
    stages: tuple[Stage, ...]

    def enter(self, images: Float[Tensor, "image ..."]) -> Float[Tensor, "image ..."]:
        """Return what the first weight layer is fed, in float64."""
        x = images.detach().to("cpu", torch.float64)
        with torch.no_grad():
            for _, module in self.before:
                x = functional_call(module, copied_state(module, "cpu"), (x,))
        return x


def walk(model: nn.Module, image_shape: tuple[int, ...]) -> Walk:
    """Split a sequence of modules at its weight layers.

    Nested sequences are flattened; names are the modules' paths. What follows the last weight
    layer is a head on the logits and kept in its `after`.

    Parameters
    ----------
    model
        An `nn.Sequential` of weight layers (linear, convolution) and whatever stands between.
    image_shape
        Channels, height, width.

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
    modules = list(_leaves("", model))
    splits = [i for i, (_, module) in enumerate(modules) if isinstance(module, WeightLayer)]
    if not splits:
        raise UnpredictableLayer("", "it has no weight layer")
    if len({id(modules[i][1]) for i in splits}) < len(splits):
        raise UnpredictableLayer("", "a weight layer is used twice: its draws are not independent")
    positions = _positions(modules, image_shape)
    stages = []
    for i, end in zip(splits, [*splits[1:], len(modules)], strict=True):
        name, layer = modules[i]
        shape = WeightShape.of(layer)
        after = tuple(modules[i + 1 : end])
        stages.append(Stage(name, shape.fan_in, shape.fan_out, positions[i], after))
    return Walk(tuple(modules[: splits[0]]), tuple(stages))


def _leaves(name: str, module: nn.Module) -> Iterator[Named]:
    if isinstance(module, nn.Sequential):
        # Not named_children(), which skips a module's second appearance.
        for key, child in zip(module._modules, module, strict=True):
            yield from _leaves(f"{name}.{key}" if name else key, child)
        return
    if not isinstance(module, (WeightLayer, *NORMALIZATIONS)) and any(
        parameter.ndim > 1 for parameter in module.parameters()
    ):
        kind = type(module).__name__
        raise UnpredictableLayer(name, f"{kind} has weights, and is no plain sequence of layers")
    yield name, module


def _positions(modules: list[Named], image_shape: tuple[int, ...]) -> dict[int, int]:
    """Output positions of every weight layer, from a run on the meta device: shapes only."""
    images = 2  # batch normalization refuses one value per channel
    x = torch.empty((images, *image_shape), device="meta", dtype=torch.float64)
    positions = {}
    for i, (name, module) in enumerate(modules):
        if isinstance(module, DROPOUTS):
            continue
        try:
            x = functional_call(module, copied_state(module, "meta"), (x,))
        except RuntimeError as error:
            raise UnpredictableLayer(name, f"it can't follow what precedes it: {error}") from error
        if isinstance(module, WeightLayer):
            positions[i] = x.numel() // (images * WeightShape.of(module).out_features)
    return positions


def copied_state(module: nn.Module, device: str) -> dict[str, Tensor]:
    """A module's parameters and buffers, copied, so that a run leaves the module untouched."""
    state = [*module.named_parameters(), *module.named_buffers()]
    return {
        name: tensor.detach().to(device, torch.float64, copy=True)
        if tensor.is_floating_point()
        else tensor.detach().to(device, copy=True)
        for name, tensor in state
    }
