"""Parse an `nn.Sequential` into weight layers, each with the modules that follow it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from fanin.graph.leaves import is_leaf, is_plain_sequence
from fanin.images import check_layer_input
from fanin.inits.weight_shape import WeightLayer, WeightShape
from fanin.theory.elementwise import copy_state
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.layers import (
    CHANNEL_DROPOUT,
    DROPOUT,
    ELEMENTWISE,
    NamedLayer,
    find_kind,
)

Named = tuple[str, nn.Module]
MAX_CPU_WORK = 2**30  # bound on a forward pass's multiplications: a fraction of a second


@dataclass(frozen=True)
class Stage:
    """One weight layer and the modules between it and the next weight layer.

    Attributes
    ----------
    name
        Module path of the weight layer.
    fan_in
        Number of inputs per output.
    outputs_per_input
        Number of outputs per input (away from borders, at stride 1), inside one group of a grouped
        convolution.
    positions
        Output positions per channel of one image; 1 for a linear layer on a flat input.
    output_shape
        Shape of the output for one image, such as (channels, height, width).
    after
        Modules between this weight layer and the next.
    """

    name: str
    fan_in: int
    outputs_per_input: int
    positions: int
    output_shape: tuple[int, ...]
    after: tuple[NamedLayer, ...]


@dataclass(frozen=True)
class ParsedNetwork:
    """A network as a sequence of stages.

    Attributes
    ----------
    before
        Modules before the first weight layer.
    stages
        Weight layers in forward order, each with the modules that follow it.
    """

    before: tuple[NamedLayer, ...]
    stages: tuple[Stage, ...]

    def first_input(self, images: Float[Tensor, "image ..."]) -> Float[Tensor, "image ..."]:
        """Return the input of the first weight layer, in float64."""
        x = images.detach().to("cpu", torch.float64)
        with torch.no_grad():
            for layer in self.before:
                x = functional_call(layer.module, copy_state(layer.module, "cpu"), (x,))
        return x


def parse_network(
    model: nn.Module, image_shape: tuple[int, ...], layer_kinds: Sequence[LayerKind] = ()
) -> ParsedNetwork:
    """Split a sequence of modules at its weight layers.

    Nested sequences are flattened, and layer names are module paths. Modules after the last weight
    layer are in its `after`.

    Parameters
    ----------
    model
        An `nn.Sequential` of weight layers (linear, convolution) and other modules.
    image_shape
        Shape of one image, such as (channels, height, width).
    layer_kinds
        Additional layer kinds. They take precedence over the built-in ones.

    Raises
    ------
    UnpredictableLayer
        Weights are inside a module that is not a sequence (a residual block, attention), belong to
        an unsupported layer type (a transposed convolution), or are used twice.
    InputError
        The images have a wrong shape for a weight layer.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2704, 10))
    >>> stages = parse_network(model, (1, 28, 28)).stages
    >>> [(s.name, s.fan_in, s.positions, len(s.after)) for s in stages]
    [('0', 9, 676, 2), ('3', 2704, 1, 0)]
    """
    modules = list(flattened(model))
    has_kind = has_layer_of(model, layer_kinds)
    for name, module in modules:
        _reject_nested_weights(name, module, layer_kinds, has_kind)
        _reject_changed_layer(name, module, layer_kinds)
    splits = [i for i, (_, module) in enumerate(modules) if isinstance(module, WeightLayer)]
    if not splits:
        raise UnpredictableLayer("", "it has no weight layer")
    if len({id(modules[i][1]) for i in splits}) < len(splits):
        raise UnpredictableLayer(
            "", "a weight layer is used twice; theory needs independent weights in each layer"
        )
    output_shapes = _output_shapes(modules, image_shape)

    def named(part: Sequence[Named]) -> tuple[NamedLayer, ...]:
        return tuple(NamedLayer.of(name, module, layer_kinds) for name, module in part)

    stages = []
    for i, end in zip(splits, [*splits[1:], len(modules)], strict=True):
        name, layer = modules[i]
        shape = WeightShape.of(layer)
        after = named(modules[i + 1 : end])
        positions = prod(output_shapes[i]) // shape.out_features
        stages.append(
            Stage(
                *(name, shape.fan_in, shape.outputs_per_input, positions),
                *(output_shapes[i], after),
            )
        )
    return ParsedNetwork(named(modules[: splits[0]]), tuple(stages))


def has_flat_weights(
    model: nn.Module, image_shape: tuple[int, ...], layer_kinds: Sequence[LayerKind] = ()
) -> bool:
    """Return True if all weight layers are elements of a sequence, so that theory `he` applies."""
    try:
        parse_network(model, image_shape, layer_kinds)
    except UnpredictableLayer:
        return has_layer_of(model, layer_kinds)
    return True


def is_sequence(
    model: nn.Module, image_shape: tuple[int, ...], layer_kinds: Sequence[LayerKind] = ()
) -> bool:
    """Return True if theory `field` has a rule for each module of a sequence.

    Other models are read as a graph (`fanin.theory.graph`), unless they have a layer of a kind that
    the user adds.
    """
    try:
        for stage in parse_network(model, image_shape, layer_kinds).stages:
            for layer in stage.after:
                layer.field()
    except UnpredictableLayer:
        return has_layer_of(model, layer_kinds)
    return True


def has_layer_of(model: nn.Module, layer_kinds: Sequence[LayerKind]) -> bool:
    """Return True if a layer of a model is of one of the kinds."""
    classes = tuple(cls for kind in layer_kinds for cls in kind.modules)
    return any(isinstance(module, classes) for module in model.modules())


def describe_module(module: nn.Module) -> str:
    """Return the type and sizes of a linear or convolution layer.

    Examples
    --------
    >>> from torch import nn
    >>> describe_module(nn.Conv2d(3, 16, 5, stride=2)), describe_module(nn.Linear(8, 4))
    ('Conv2d(3, 16, 5, stride=2)', 'Linear(8, 4)')
    """
    shape = WeightShape.of(module)
    sizes = [str(shape.in_features), str(shape.out_features)]
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        sizes.append(_kernel_text(shape.kernel))
        if set(module.stride) != {1}:
            sizes.append(f"stride={_kernel_text(module.stride)}")
        if module.groups > 1:
            sizes.append(f"groups={module.groups}")
    return f"{type(module).__name__}({', '.join(sizes)})"


class SizedLayer(Protocol):
    """Path and output shape of a weight layer."""

    @property
    def name(self) -> str: ...
    @property
    def output_shape(self) -> tuple[int, ...]: ...


def describe_layer(model: nn.Module, stage: SizedLayer) -> tuple[str, str, str]:
    """Return type, output shape and number of parameters of a layer, as text.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    >>> describe_layer(model, parse_network(model, (1, 8, 8)).stages[0])
    ('Conv2d(1, 4, 3)', '4×6×6', '40')
    """
    module = model.get_submodule(stage.name)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return describe_module(module), "×".join(map(str, stage.output_shape)), f"{parameters:,}"


def _kernel_text(sizes: tuple[int, ...]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else str(tuple(sizes))


def flattened(module: nn.Module, name: str = "") -> Iterator[Named]:
    """Yield the modules of a sequence with their paths, with nested sequences flattened."""
    if is_plain_sequence(module):
        # named_children() would skip a module's second appearance.
        for key, child in zip(module._modules, module, strict=True):
            yield from flattened(child, f"{name}.{key}" if name else key)
        return
    yield name, module


def _reject_nested_weights(
    name: str, module: nn.Module, layer_kinds: Sequence[LayerKind], has_kind: bool
) -> None:
    is_supported = (
        isinstance(module, WeightLayer) or find_kind(module, layer_kinds) is not ELEMENTWISE
    )
    if not is_supported and any(parameter.ndim > 1 for parameter in module.parameters()):
        kind = type(module).__name__
        needs = "layer_kinds are supported only in" if has_kind else "theory needs"
        raise UnpredictableLayer(
            name,
            f"{kind} is not supported; {needs} an nn.Sequential with all weights in linear and"
            " convolution layers (fanin.probe measures any model)",
        )


def _reject_changed_layer(name: str, module: nn.Module, layer_kinds: Sequence[LayerKind]) -> None:
    """Raise UnpredictableLayer if a layer of torch has other code, or hooks that may change it."""
    if is_leaf(module) or type(module).__module__.startswith("fanin."):  # such as `Subsample`
        return
    has_rule = isinstance(module, WeightLayer) or find_kind(module) is not ELEMENTWISE
    if has_rule and find_kind(module, layer_kinds) not in layer_kinds:
        raise UnpredictableLayer(
            name, f"{type(module).__name__} overrides methods of its base class, or has hooks"
        )


def _output_shapes(
    modules: list[Named], image_shape: tuple[int, ...]
) -> dict[int, tuple[int, ...]]:
    """Return the output shape of every weight layer, from a forward pass."""
    images = 2  # batch normalization rejects one value per channel
    device = _shape_device(modules, image_shape)
    x = torch.ones((images, *image_shape), device=device, dtype=torch.float64)
    shapes = {}
    for i, (name, module) in enumerate(modules):
        if find_kind(module) in (DROPOUT, CHANNEL_DROPOUT):  # keeps the shape; has no mask here
            continue
        check_layer_input(name, module, tuple(x.shape), image_shape)
        try:
            with torch.no_grad():
                x = functional_call(module, copy_state(module, device), (x,))
        except RuntimeError as error:
            shape = tuple(x.shape[1:])
            reason = f"its forward pass on inputs of shape {shape} fails: {error}"
            raise UnpredictableLayer(name, reason) from error
        if isinstance(module, WeightLayer):
            shapes[i] = tuple(x.shape[1:])
    return shapes


def _shape_device(modules: list[Named], image_shape: tuple[int, ...]) -> str:
    """Return the device of the cheapest forward pass, `cpu` or `meta`.

    The first module on the meta device imports torch's compiler, which takes more than a second.
    """
    parameters = [p for _, module in modules for p in module.parameters()]
    work = sum(p.numel() for p in parameters) * prod(image_shape[1:])
    is_meta = any(p.is_meta for p in parameters)
    return "meta" if is_meta or work > MAX_CPU_WORK else "cpu"
