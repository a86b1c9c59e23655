"""Steps of normalizations."""

from __future__ import annotations

import torch.nn.functional as F

from fanin.graph import Node
from fanin.theory.graph.build import Builder, as_function, step_name
from fanin.theory.graph.elementary import Linear, Mixing, Scale
from fanin.theory.graph.neighbours import GroupNorm, Neighbourhood
from fanin.theory.graph.operations import NormalizeChannels, Operation, PerChannel
from fanin.theory.graph.over_channels import ChannelNorm


def batch_norm(builder: Builder, node: Node) -> None:
    """Add batch normalization: by the batch's statistics, or by running ones."""
    arguments = node.arguments
    layout = builder.layout_of(arguments["input"])
    if layout.channel_axis != 1:
        raise builder.refuse(node, "it reads positions of the image as channels")
    if arguments["training"]:
        eps = arguments["eps"]
        if builder.assumptions.expected_statistics:
            norm = ChannelNorm(True, False, eps, over_images=True)
            _add(builder, node, NormalizeChannels(norm))
            return
        rule = layout.on_samples(
            lambda x: F.batch_norm(x, None, None, training=True, eps=eps), layout
        )
        _add(builder, node, PerChannel(Mixing(rule)))
        return
    _add(builder, node, _by_running_statistics(builder, node, "the batch"))


def _by_running_statistics(builder: Builder, node: Node, batch: str) -> Operation:
    arguments = node.arguments
    remedy = (
        f"call model.train() to normalize by {batch}, or reset_running_stats() of the layer for"
        " the statistics of a new model"
    )
    mean = builder.constant(node, arguments["running_mean"], "running_mean", remedy)
    var = builder.constant(node, arguments["running_var"], "running_var", remedy)
    rate = (var + arguments["eps"]) ** -0.5
    return PerChannel(Scale(rate, -mean * rate))


def instance_norm(builder: Builder, node: Node) -> None:
    """Add normalization of each channel of each image."""
    arguments = node.arguments
    layout = builder.layout_of(arguments["input"])
    if layout.channel_axis != 1 or layout.is_flat or not layout.positions:
        raise builder.refuse(node, "it reads positions of the image as channels")
    if not arguments["use_input_stats"]:
        _add(builder, node, _by_running_statistics(builder, node, "each image"))
        return
    eps = arguments["eps"]
    if builder.assumptions.expected_statistics:
        _add(builder, node, NormalizeChannels(ChannelNorm(True, False, eps)))
        return
    rule = layout.on_samples(lambda x: F.instance_norm(x, eps=eps), layout)
    _add(builder, node, PerChannel(Mixing(rule)))


def group_norm(builder: Builder, node: Node) -> None:
    """Add group normalization; with one group it is layer normalization over all positions."""
    arguments = node.arguments
    layout, groups = builder.layout_of(arguments["input"]), arguments["num_groups"]
    if groups == 1:
        _add(builder, node, NormalizeChannels(ChannelNorm(True, True, arguments["eps"])))
        return
    if layout.is_flat:
        raise builder.refuse(node, "group_norm after flattening is not supported")
    if layout.channel_axis != 1:
        raise builder.refuse(node, "it reads positions of the image as channels")
    size = layout.channels // groups
    _add(builder, node, GroupNorm(step_name(node), size, arguments["eps"]))


def mean_only(builder: Builder, node: Node) -> None:
    """Add the subtraction of each channel's mean over images and positions."""
    layout = builder.layout_of(node.inputs[0])
    if layout.channel_axis != 1 or layout.is_flat:
        raise builder.refuse(node, "it reads positions of the image as channels")
    if builder.assumptions.expected_statistics:
        builder.set(node, builder.step_of(node.inputs[0]))
        return
    builder.add_rule(node, Linear(layout.on_samples(as_function(node), layout)))


def local_response_norm(builder: Builder, node: Node) -> None:
    """Add division by a power of a sum over neighbouring channels."""
    source = builder.step_of(node.inputs[0])
    layout = builder.layouts[source]
    if layout.channel_axis != 1 or layout.is_flat:
        raise builder.refuse(node, "it reads positions of the image as channels")
    operation = Neighbourhood(step_name(node), layout.on_samples(as_function(node), layout))
    builder.add(node, operation, [source], layout)


def layer_norm(builder: Builder, node: Node) -> None:
    """Add normalization of each image over channels, at each position or over all of them."""
    _over_last_axes(builder, node, centred=True)


def rms_norm(builder: Builder, node: Node) -> None:
    """Add division of each image by its root mean square over channels."""
    _over_last_axes(builder, node, centred=False)


def _over_last_axes(builder: Builder, node: Node, centred: bool) -> None:
    arguments = node.arguments
    layout = builder.layout_of(arguments["input"])
    count = len(arguments["normalized_shape"])
    first = layout.n_axes - count
    if not first <= layout.channel_axis:
        raise builder.refuse(node, "it normalizes positions without channels")
    if count not in (1, layout.n_axes - 1):
        raise builder.refuse(node, "it normalizes over some of the positions only")
    over_positions = layout.is_flat or (count > 1 and bool(layout.positions))
    eps = arguments["eps"]
    norm = ChannelNorm(over_positions, centred, 1e-7 if eps is None else eps)
    _add(builder, node, NormalizeChannels(norm))


def _add(builder: Builder, node: Node, operation: Operation) -> None:
    """Add the normalization, then its scale and shift."""
    arguments = node.arguments
    source = builder.step_of(arguments["input"])
    layout = builder.layouts[source]
    scale, shift = (
        default if arguments.get(name) is None else builder.constant(node, arguments[name], name)
        for name, default in (("weight", 1.0), ("bias", 0.0))
    )
    step = builder.add_part(node, operation, [source], layout)
    if (scale, shift) == (1.0, 0.0):
        builder.set(node, step)
        return
    builder.add(node, PerChannel(Scale(scale, shift)), [step], layout)
