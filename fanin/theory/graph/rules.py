"""Table of the operations that theory supports on graphs: a function that adds each one's steps.

To support an operation, write a function of the builder and the node, and add it to `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from fanin.graph import OPERATIONS, Node
from fanin.theory.assumptions import Subsample
from fanin.theory.graph import shapes
from fanin.theory.graph.build import (
    Builder,
    as_function,
    as_point_function,
    elementwise_function,
    fields_of,
)
from fanin.theory.graph.checks import DROPOUT, check_call, eval_advice
from fanin.theory.graph.elementary import Elementwise, Linear, Mixing, Scale
from fanin.theory.graph.layout import Layout
from fanin.theory.graph.normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    local_response_norm,
    mean_only,
    rms_norm,
)
from fanin.theory.graph.operations import Add, Concatenate, Multiply, PerChannel, Pointwise
from fanin.theory.layers import find_kind

Rule = Callable[[Builder, Node], None]
PADDING = ("zero", "reflection", "replication", "circular")  # modules such as nn.ZeroPad2d
POINTWISE = (
    *("where", "maximum", "minimum", "max", "min", "pow", "rdiv", "masked_fill", "lerp"),
    *("addcmul", "addcdiv", "hypot", "atan2", "xlogy", "copysign", "fmax", "fmin"),
    *("gt", "lt", "ge", "le", "eq", "ne", "logical_and", "logical_or"),
)
"""Elementwise functions that users call with several tensors."""


def add_node(builder: Builder, node: Node) -> None:
    """Add the steps of one node.

    Raises
    ------
    UnpredictableLayer
        Theory has no rule for the operation.
    """
    if node.kind == "input":
        builder.add_images(node)
        return
    if not node.depends_on_images:
        return
    check_call(builder, node)
    RULES.get(node.operation, _elementwise)(builder, node)


def _elementwise(builder: Builder, node: Node) -> None:
    function = elementwise_function(node)
    if function is None:
        raise builder.refuse(node, f"the operation {node.operation} is not supported")
    if builder.assumptions.he_gains:
        builder.add_rule(node, Scale(_he_gain(node) ** 0.5))
    else:
        builder.add_rule(node, Elementwise(function))


def _he_gain(node: Node) -> float:
    """Return the factor of an activation on the second moment: 1/2 for ReLU, 1 for most others."""
    match node.target, node.operation:
        case nn.Module() as module, _:
            return find_kind(module).gain(module)
        case _, "relu":
            return find_kind(nn.ReLU()).gain(nn.ReLU())
        case _, "leaky_relu":
            leaky = nn.LeakyReLU(node.arguments["negative_slope"])
            return find_kind(leaky).gain(leaky)
    return 1.0


# --- arithmetic ---------------------------------------------------------------------------------


def _alias(builder: Builder, node: Node) -> None:
    builder.set(node, builder.step_of(node.inputs[0]))


def _converted(builder: Builder, node: Node) -> None:
    """Ignore a conversion between floating-point types."""
    (source,) = fields_of(node)
    to, of = node.dtype, source.dtype
    if to is not None and of is not None and to.is_floating_point and of.is_floating_point:
        _alias(builder, node)
    elif of == torch.bool:  # such as (x > 0).float()
        step = builder.step_of(source)
        function = Pointwise(lambda values: values[0].double(), has_gradient=(False,))
        builder.add(node, function, [step], builder.layouts[step])
    else:
        _elementwise(builder, node)


def _sum(builder: Builder, node: Node, sign: float = 1.0, exchanged: bool = False) -> None:
    arguments = node.arguments
    x, y = arguments["input"], arguments["other"]
    alpha = float(arguments["alpha"])
    scales = [-alpha, 1.0] if exchanged else [1.0, sign * alpha]  # rsub: other - alpha input
    if builder.is_field(x) and builder.is_field(y):
        steps = [
            _scaled(builder, node, builder.step_of(value), scale)
            for value, scale in zip((x, y), scales, strict=True)
        ]
        builder.add(node, Add(), steps, _broadcast(builder, node, *steps))
        return
    field, number, scale = (x, y, scales) if builder.is_field(x) else (y, x, scales[::-1])
    shift = scale[1] * builder.constant(node, number)
    _scale(builder, node, field, Scale(scale[0], shift))


def _scaled(builder: Builder, node: Node, step: int, scale: float) -> int:
    if scale == 1:
        return step
    return builder.add_part(node, PerChannel(Scale(scale)), [step], builder.layouts[step])


def _product(builder: Builder, node: Node) -> None:
    x, y = node.arguments["input"], node.arguments["other"]
    if builder.is_field(x) and builder.is_field(y):
        steps = [builder.step_of(x), builder.step_of(y)]
        if steps[0] == steps[1]:
            builder.add_rule(node, Elementwise(lambda value: value * value))
            return
        builder.add(node, Multiply(), steps, _broadcast(builder, node, *steps))
        return
    field, number = (x, y) if builder.is_field(x) else (y, x)
    _scale(builder, node, field, Scale(builder.constant(node, number)))


def _scale(builder: Builder, node: Node, field: Node, rule: Scale) -> None:
    """Add a sum or product with a constant, which may have more positions than the tensor."""
    source = builder.step_of(field)
    if node.shape != field.shape:
        source = shapes.expanded(builder, node, source)
    builder.add(node, PerChannel(rule), [source], builder.layouts[source])


def _quotient(builder: Builder, node: Node) -> None:
    x, y = node.arguments["input"], node.arguments["other"]
    if builder.is_field(y) or node.arguments["rounding_mode"]:
        _pointwise(builder, node)
        return
    _scale(builder, node, x, Scale(1 / builder.constant(node, y)))


def _negative(builder: Builder, node: Node) -> None:
    builder.add_rule(node, Scale(-1.0))


def _pointwise(builder: Builder, node: Node) -> None:
    """Add an elementwise function of several tensors and constants."""
    fields = fields_of(node)
    if len(fields) == 1 and (function := elementwise_function(node)) is not None:
        builder.add_rule(node, Elementwise(function))
        return
    if len(node.inputs) < 2 or node.shape is None:
        raise builder.refuse(node, f"the operation {node.operation} is not supported")
    constants = {
        value: builder.constant(node, value) for value in node.inputs if not value.depends_on_images
    }
    if node.shape != torch.broadcast_shapes(*(value.shape for value in fields)):
        raise builder.refuse(node, "a constant has more positions, which is not supported")
    steps = [builder.step_of(value) for value in fields]
    layout = _broadcast(builder, node, *steps)
    dtypes = [value.dtype for value in fields]
    point_function = as_point_function(node, fields, constants)
    has_gradient = tuple(dtype is None or dtype.is_floating_point for dtype in dtypes)
    builder.add(node, Pointwise(point_function, has_gradient), steps, layout)


def _broadcast(builder: Builder, node: Node, *steps: int) -> Layout:
    layouts = [builder.layouts[step] for step in steps]
    if any(layout.is_flat for layout in layouts):
        return _flat_layout(builder, node, layouts)
    if len({(layout.channel_axis, layout.n_axes) for layout in layouts}) > 1:
        raise builder.refuse(node, "its operands have their channels on different axes")
    assert node.shape is not None
    result = Layout.of(node.shape, layouts[0].channel_axis)
    for step, layout in zip(steps, layouts, strict=True):
        if layout.channels != result.channels and step not in builder.known:
            raise builder.refuse(
                node, "one channel is used with several others, so that they are not independent"
            )
    return result


def _flat_layout(builder: Builder, node: Node, layouts: Sequence[Layout]) -> Layout:
    """Return the layout of flattened maps, of which each channel has the same positions."""
    first = layouts[0]
    if any(layout != first for layout in layouts):
        shapes_of = [
            "×".join(map(str, (x.channels, *x.positions))) if x.is_flat else str(x.channels)
            for x in layouts
        ]
        raise builder.refuse(
            node,
            f"it combines a flattened map with a tensor of another layout ({', '.join(shapes_of)}),"
            " so that channels and positions would mix",
        )
    return first


def _concatenated(builder: Builder, node: Node) -> None:
    values = node.arguments["tensors"]
    if not all(builder.is_field(value) for value in values):
        raise builder.refuse(node, "it concatenates constants with a tensor")
    steps = [builder.step_of(value) for value in values]
    layouts = [builder.layouts[step] for step in steps]
    dim = int(node.arguments["dim"]) % layouts[0].n_axes
    if dim != layouts[0].channel_axis or len({x.positions for x in layouts}) > 1:
        raise builder.refuse(node, "only channels of maps of one size can be concatenated")
    channels = sum(layout.channels for layout in layouts)
    first = layouts[0]
    layout = Layout(channels, first.positions, first.channel_axis, first.is_flat)
    builder.add(node, Concatenate(), steps, layout)


# --- pooling and other functions of a map --------------------------------------------------------


def _on_map(builder: Builder, node: Node, linear: bool) -> None:
    layout = builder.layout_of(node.inputs[0])
    if layout.channel_axis != 1 or layout.is_flat:
        raise builder.refuse(node, "it reads positions of the image as channels")
    assert node.shape is not None
    out = Layout.of(node.shape)
    function = layout.on_samples(as_function(node), out)
    if builder.assumptions.subsamples and "pool" in node.operation:
        function, linear = layout.on_samples(Subsample(_pool(node)), out), True
    builder.add_rule(node, Linear(function) if linear else Mixing(function), out)


def _pool(node: Node) -> nn.Module:
    """Return a pooling as a module."""
    if isinstance(node.target, nn.Module):
        return node.target
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "output_size")
    options = {name: value for name, value in node.arguments.items() if name in names}
    return OPERATIONS[node.operation].modules[0](**options)


def _max_pool(builder: Builder, node: Node) -> None:
    if node.arguments.get("return_indices"):
        raise builder.refuse(node, "indices of maxima are not supported")
    _on_map(builder, node, linear=False)


def _dropout(builder: Builder, node: Node) -> None:
    if node.arguments["training"] and node.arguments["p"]:
        raise builder.refuse(
            node,
            "dropout in training mode is supported only in a sequence of modules",
            eval_advice(builder, node),
        )
    _alias(builder, node)


def _head(builder: Builder, node: Node) -> None:
    """Ignore a softmax at the output: cotangents start at the logits."""
    if node is not builder.graph.output:
        raise builder.refuse(node, f"{node.operation} is supported only at the output")
    _alias(builder, node)


def _weights(builder: Builder, node: Node) -> None:
    builder.add_weights(node)


def _refused(reason: str) -> Rule:
    def refuse(builder: Builder, node: Node) -> None:
        raise builder.refuse(node, reason)

    return refuse


LINEAR: Rule = partial(_on_map, linear=True)
RULES: dict[str, Rule] = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), _weights),
    **dict.fromkeys(("identity", "clone", "contiguous"), _alias),
    "add": _sum,
    "sub": partial(_sum, sign=-1.0),
    "to": _converted,
    "rsub": partial(_sum, exchanged=True),
    "mul": _product,
    "div": _quotient,
    "neg": _negative,
    **dict.fromkeys(POINTWISE, _pointwise),
    "cat": _concatenated,
    **{f"avg_pool{n}d": LINEAR for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": LINEAR for n in (1, 2, 3)},
    **{f"max_pool{n}d": _max_pool for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": _max_pool for n in (1, 2, 3)},
    "interpolate": LINEAR,
    **{f"{kind}_pad{n}d": LINEAR for kind in PADDING for n in (1, 2, 3)},
    **{f"constant_pad{n}d": partial(_on_map, linear=False) for n in (1, 2, 3)},
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "mean_only": mean_only,
    "local_response_norm": local_response_norm,
    **dict.fromkeys(DROPOUT, _dropout),
    **dict.fromkeys(("softmax", "log_softmax"), _head),
    **shapes.RULES,
    "detach": _refused("detach() stops the gradient, which is not supported"),
    **{
        f"conv_transpose{n}d": _refused("transposed convolutions are not supported")
        for n in (1, 2, 3)
    },
    **{
        name: _refused("attention is not supported")
        for name in ("scaled_dot_product_attention", "multi_head_attention")
    },
}
"""Rules by the name of the operation. Any other operation must be elementwise."""
