"""Steps of operations that rearrange, select or reduce positions and channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fanin.graph import Node
from fanin.theory.graph.build import Builder, as_function, fields_of
from fanin.theory.graph.elementary import Elementwise, Linear, Mixing
from fanin.theory.graph.layout import Layout
from fanin.theory.graph.operations import Multiply, PadChannels, PerChannel, SelectChannels

Rule = Callable[[Builder, Node], None]


def _reshape(builder: Builder, node: Node) -> None:
    source = builder.step_of(node.inputs[0])
    old = builder.layouts[source]
    assert node.shape is not None
    shape = node.shape
    new = _reshaped(old, shape)
    if node.operation == "squeeze" and len(shape) < 2:
        raise builder.refuse(
            node,
            f"squeeze to {tuple(shape)} removes the axis of the images or of the channels",
            "write squeeze(dim) for another axis; the output needs the shape (images, logits)",
        )
    if new is None or shape[0] != builder.n_images:
        raise builder.refuse(node, f"a reshape to {tuple(shape)} mixes channels and positions")
    if new.positions == old.positions:
        builder.add(node, PerChannel(Linear(lambda x: x)), [source], new)
        return
    rule = Linear(lambda x: x.reshape(*x.shape[:2], *new.positions))
    builder.add(node, PerChannel(rule), [source], new)


def _reshaped(old: Layout, shape: tuple[int, ...]) -> Layout | None:
    """Return the new layout; None if channels and positions are mixed."""
    if old.channel_axis == 1:
        if len(shape) == 2 and shape[1] == old.channels * old.n_positions:
            if old.n_positions == 1:
                return Layout(old.channels, ())
            return Layout(old.channels, old.positions, 1, is_flat=True)
        if len(shape) > 1 and shape[1] == old.channels and prod(shape[2:]) == old.n_positions:
            return Layout.of(shape)
    is_last = old.channel_axis == old.n_axes - 1 and not old.is_flat
    if is_last and shape[-1] == old.channels and prod(shape[1:-1]) == old.n_positions:
        return Layout.of(shape, len(shape) - 1)
    return None


def _permute(builder: Builder, node: Node) -> None:
    source = builder.step_of(node.inputs[0])
    old = builder.layouts[source]
    order = _order(node, old.n_axes)
    if order[0] != 0:
        raise builder.refuse(node, "it moves the axis of the images")
    if old.is_flat:
        raise builder.refuse(node, "it mixes channels and positions")
    assert node.shape is not None
    new = Layout.of(node.shape, order.index(old.channel_axis))
    function = old.on_samples(lambda x: x.permute(order), new)
    builder.add(node, PerChannel(Linear(function)), [source], new)


def _order(node: Node, n_axes: int) -> list[int]:
    arguments = node.arguments
    axes = list(range(n_axes))
    match node.operation:
        case "permute":
            return [int(dim) % n_axes for dim in arguments["dims"]]
        case "transpose":
            i, j = (int(arguments[name]) % n_axes for name in ("dim0", "dim1"))
            axes[i], axes[j] = axes[j], axes[i]
            return axes
        case _:
            sources, targets = (
                [int(dim) % n_axes for dim in _as_tuple(arguments[name])]
                for name in ("source", "destination")
            )
            rest = [axis for axis in axes if axis not in sources]
            moved = dict(zip(targets, sources, strict=True))
            return [moved[i] if i in moved else rest.pop(0) for i in axes]


def _reduce(builder: Builder, node: Node, linear: bool = True) -> None:
    old = builder.layout_of(node.inputs[0])
    dim, keep = node.arguments["dim"], node.arguments["keepdim"]
    dims = {int(d) % old.n_axes for d in _as_tuple(range(old.n_axes) if dim is None else dim)}
    if old.is_flat or dims & {0, old.channel_axis}:
        raise builder.refuse(node, f"{node.operation} over images or channels is not supported")
    axis = old.channel_axis - (0 if keep else sum(d < old.channel_axis for d in dims))
    _run(builder, node, axis, linear=linear)


def _keep_axes(builder: Builder, node: Node) -> None:
    """Add a linear function of positions that keeps the number of axes."""
    old = builder.layout_of(node.inputs[0])
    dims = node.arguments["dims"]
    if dims is None or dims == ():
        raise builder.refuse(node, f"{node.operation} without dims mixes channels and positions")
    axes = {int(dim) % old.n_axes for dim in _as_tuple(dims)}
    if old.is_flat or axes & {0, old.channel_axis}:
        raise builder.refuse(node, f"{node.operation} of images or channels is not supported")
    _run(builder, node, old.channel_axis)


def _run(builder: Builder, node: Node, channel_axis: int, linear: bool = True) -> None:
    """Add a function that runs on samples as it is."""
    old = builder.layout_of(node.inputs[0])
    assert node.shape is not None
    new = Layout.of(node.shape, channel_axis)
    function = old.on_samples(as_function(node), new)
    builder.add_rule(node, Linear(function) if linear else Mixing(function), new)


def _expand(builder: Builder, node: Node) -> None:
    builder.set(node, expanded(builder, node, builder.step_of(fields_of(node)[0])))


def expanded(builder: Builder, node: Node, source: int) -> int:
    """Add the step that repeats a tensor over the positions of a node."""
    old, shape = builder.layouts[source], node.shape
    if old.is_flat or shape is None or len(shape) != old.n_axes or shape[0] != builder.n_images:
        raise builder.refuse(node, "it adds axes or repeats images, which is not supported")
    new = Layout.of(shape, old.channel_axis)
    if new.channels != old.channels:
        raise builder.refuse(node, "it repeats channels, so that they are not independent")
    rule = Linear(lambda x: x.expand(*x.shape[:2], *new.positions))
    return builder.add_part(node, PerChannel(rule), [source], new)


def _pad(builder: Builder, node: Node) -> None:
    source = builder.step_of(node.inputs[0])
    old = builder.layouts[source]
    arguments = node.arguments
    pads = list(arguments["pad"])
    pairs = {old.n_axes - 1 - i // 2: (pads[i], pads[i + 1]) for i in range(0, len(pads), 2)}
    if old.is_flat or pairs.get(0, (0, 0)) != (0, 0):
        raise builder.refuse(node, "it pads the axis of the images")
    before, after = pairs.get(old.channel_axis, (0, 0))
    value = arguments["value"] or 0
    if (before or after) and (value or before < 0 or after < 0 or arguments["mode"] != "constant"):
        raise builder.refuse(node, "only zeros can be added to the channels")
    on_positions = [
        n
        for axis in range(old.n_axes - 1, 0, -1)
        if axis != old.channel_axis
        for n in pairs.get(axis, (0, 0))
    ]
    step = source
    if any(on_positions):
        mode = arguments["mode"]

        def pad(x: Tensor) -> Tensor:
            return F.pad(x, on_positions, mode=mode, value=value or None)

        assert node.shape is not None
        positions = tuple(n for i, n in enumerate(node.shape) if i not in (0, old.channel_axis))
        rule = Linear(pad) if not value else Mixing(pad)
        layout = Layout(old.channels, positions, old.channel_axis)
        step = builder.add_part(node, PerChannel(rule), [step], layout)
    layout = builder.layouts[step]
    if before or after:
        channels = before + old.channels + after
        layout = Layout(channels, layout.positions, layout.channel_axis)
        step = builder.add_part(node, PadChannels(before, after), [step], layout)
    builder.set(node, step)


def _getitem(builder: Builder, node: Node) -> None:
    source = builder.step_of(node.inputs[0])
    old = builder.layouts[source]
    index = _full_index(node.arguments["index"], old.n_axes)
    if old.is_flat or index is None:
        raise builder.refuse(node, "this index is not supported")
    by_axis = [i for i, part in enumerate(index) if part is not None]
    at = by_axis[old.channel_axis]
    chosen, rest = index[at], (*index[:at], slice(None), *index[at + 1 :])
    if not isinstance(chosen, slice) or index[by_axis[0]] != slice(None) or by_axis[0] != 0:
        raise builder.refuse(node, "selecting one image or one channel is not supported")
    start, stop, stride = chosen.indices(old.channels)
    if stride != 1:
        raise builder.refuse(node, "channels can be selected only without a step")
    step = _select(builder, node, source, start, stop)
    if any(part != slice(None) for part in rest):
        assert node.shape is not None
        axis = sum(not isinstance(part, int) for part in rest[:at])
        new = Layout.of(node.shape, axis)
        function = builder.layouts[step].on_samples(lambda x: x[rest], new)
        step = builder.add_part(node, PerChannel(Linear(function)), [step], new)
    builder.set(node, step)


def _full_index(index: Any, n_axes: int) -> list[Any] | None:
    """Return one entry per axis, and None for each new axis; None for an index of tensors."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(part is None or isinstance(part, int | slice | type(...)) for part in parts):
        return None
    missing = n_axes - sum(part is not None and part is not ... for part in parts)
    at = parts.index(...) if ... in parts else len(parts)
    return [*parts[:at], *[slice(None)] * missing, *parts[at + 1 :]]


def _select(builder: Builder, node: Node, source: int, start: int, stop: int) -> int:
    old = builder.layouts[source]
    if (start, stop) == (0, old.channels):
        return source
    layout = Layout(stop - start, old.positions, old.channel_axis, old.is_flat)
    return builder.add_part(node, SelectChannels(start, stop), [source], layout)


def _glu(builder: Builder, node: Node) -> None:
    """Add one half of the channels times the sigmoid of the other."""
    source = builder.step_of(node.inputs[0])
    old = builder.layouts[source]
    if old.is_flat or int(node.arguments["dim"]) % old.n_axes != old.channel_axis:
        raise builder.refuse(node, "only channels can be split")
    half = old.channels // 2
    value = _select(builder, node, source, 0, half)
    gate = _select(builder, node, source, half, old.channels)
    layout = builder.layouts[value]
    gate = builder.add_part(node, PerChannel(Elementwise(torch.sigmoid)), [gate], layout)
    builder.add(node, Multiply(), [value, gate], layout)


def _split(builder: Builder, node: Node) -> None:
    source = builder.step_of(node.inputs[0])
    old = builder.layouts[source]
    arguments = node.arguments
    if old.is_flat or int(arguments["dim"]) % old.n_axes != old.channel_axis:
        raise builder.refuse(node, "only channels can be split")
    n = old.channels
    if node.operation == "chunk":
        size: Any = -(-n // int(arguments["chunks"]))
    else:
        size = arguments["split_size_or_sections"]
    sizes = [min(size, n - i) for i in range(0, n, size)] if isinstance(size, int) else list(size)
    steps, start = [], 0
    for length in sizes:
        steps.append(_select(builder, node, source, start, start + length))
        start += length
    builder.set(node, tuple(steps))


def _item(builder: Builder, node: Node) -> None:
    keys = node.arguments["keys"]
    parts = builder.parts_of(node.inputs[0])
    if len(keys) != 1 or not isinstance(keys[0], int):
        raise builder.refuse(node, "this element of a result is not supported")
    builder.set(node, parts[keys[0]])


def _as_tuple(value: Any) -> Sequence[int]:
    return (value,) if isinstance(value, int) else tuple(value)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("reshape", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze"), _reshape
    ),
    **dict.fromkeys(("permute", "transpose", "movedim"), _permute),
    **dict.fromkeys(("mean", "sum"), _reduce),
    **dict.fromkeys(("amax", "amin"), lambda builder, node: _reduce(builder, node, linear=False)),
    **dict.fromkeys(("flip", "roll"), _keep_axes),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    "pad": _pad,
    "getitem": _getitem,
    **dict.fromkeys(("chunk", "split"), _split),
    "item": _item,
    "glu": _glu,
}
