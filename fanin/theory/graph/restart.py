"""Tensors of a graph that are measured in drawn networks, because theory cannot predict them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fanin.graph import Graph, Node
from fanin.theory.graph.build import Builder, step_name
from fanin.theory.graph.channel import Channel, known_channels
from fanin.theory.graph.depthwise import Depthwise
from fanin.theory.graph.feature_map import FeatureMap, Group
from fanin.theory.graph.layout import Layout
from fanin.theory.graph.operations import Cotangents, Fields, Weights
from fanin.theory.graph.propagate import Step
from fanin.theory.graph.rules import add_node
from fanin.theory.layer_kind import UnpredictableLayer

Parameters = frozenset[int]
"""Parameters, by `id`."""
NO_PARAMETERS: Parameters = frozenset()


@dataclass(frozen=True)
class MeasuredTensor:
    """A tensor that is measured.

    Attributes
    ----------
    step, node
        Numbers of its step and node.
    source
        Number of the node that computes it; several tensors may be the result of one call.
    name
        Name of that call.
    reason
        Why the tensor is not predicted.
    """

    step: int
    node: int
    source: int
    name: str
    reason: str


@dataclass(frozen=True)
class Measured:
    """A tensor whose channels in a drawn network are the samples of its distribution.

    Attributes
    ----------
    node
        Index of its node; `Fields.measured` has its values.
    layout
        Its layout.
    is_random
        False if no random weights affect it, so that the channels themselves are known.
    """

    node: int
    layout: Layout
    is_random: bool

    def forward(self, inputs: Sequence[FeatureMap], fields: Fields) -> FeatureMap:
        n = self.layout.channels
        values = self.layout.pack(fields.measured[self.node], n).double()
        if not self.is_random:
            return FeatureMap((Group(n, known_channels(values)),))
        points = values.movedim(1, 0).flatten(1)
        repeated = values[:, torch.arange(fields.samples) % n]
        channel = Channel(
            (len(values), *self.layout.positions),
            lambda: repeated,
            products=lambda: points.mT @ points / n,
            mean=lambda: points.mean(0),
            sources=frozenset({(fields.number(), 0)}),
        )
        return FeatureMap((Group(n, channel),))

    def backward(
        self, inputs: Sequence[FeatureMap], output: FeatureMap, g: FeatureMap, fields: Fields
    ) -> Cotangents:
        return [None] * len(inputs)


class RestartingBuilder:
    """Adds nodes to a builder, and measures those that theory cannot predict.

    A tensor is also measured if it combines one that depends on the drawn values of some weights
    with one for which the same weights are random, because their correlation is unknown.
    """

    def __init__(self, builder: Builder) -> None:
        self.measured: list[MeasuredTensor] = []
        self._builder = builder
        self._before: dict[Node, Parameters] = {}  # on which a node's value depends
        self._drawn: list[Parameters] = []  # by step
        self._random: list[Parameters] = []
        self._without_step: dict[Node, str] = {}  # reason by node

    def add(self, node: Node) -> None:
        """Add the steps of one node."""
        self._before[node] = _own_parameters(node).union(*(self._before[x] for x in node.inputs))
        if not node.depends_on_images:
            return
        n_steps = len(self._builder.steps)
        lost = [self._without_step[x] for x in node.inputs if x in self._without_step]
        if lost:
            self._measure(node, lost[0])
            return
        try:
            add_node(self._builder, node)
            self._follow(node)
        except UnpredictableLayer as error:
            self._builder.undo(node, n_steps)
            del self._drawn[n_steps:], self._random[n_steps:]
            self._measure(node, str(error))

    def _follow(self, node: Node) -> None:
        """Record on which weights the new steps of a node depend.

        Raises
        ------
        UnpredictableLayer
            They depend on the drawn values of some weights, and on the same weights as random ones.
        """
        for step in self._builder.steps[len(self._drawn) :]:
            drawn, random = (
                NO_PARAMETERS.union(*(of[i] for i in step.inputs))
                for of in (self._drawn, self._random)
            )
            if isinstance(step.operation, Weights | Depthwise):
                random |= _own_parameters(node)
            if drawn & random:
                raise self._builder.refuse(
                    node, "it combines a measured tensor with one that the same weights determine"
                )
            self._drawn.append(drawn)
            self._random.append(random)

    def _measure(self, node: Node, reason: str) -> None:
        builder = self._builder
        is_float = node.dtype is not None and node.dtype.is_floating_point
        if node.shape is None or not is_float or node.shape[:1] != (builder.n_images,):
            self._without_step[node] = reason
            return
        if len(node.shape) == 1:
            raise UnpredictableLayer(step_name(node), f"{reason}; it has no channels")
        inputs = sorted(set(self._steps_before(node)))
        layout = Layout.of(node.shape, self._channel_axis(node, inputs))
        operation = Measured(node.index, layout, is_random=bool(self._before[node]))
        number = builder.add(node, operation, inputs, layout)
        if operation.is_random:
            builder.known.discard(number)
        else:
            builder.known.add(number)
        self._drawn.append(self._before[node])
        self._random.append(NO_PARAMETERS)
        named = node.inputs[0] if node.operation == "item" else node
        self.measured.append(
            MeasuredTensor(number, node.index, named.index, step_name(named), reason)
        )

    def _channel_axis(self, node: Node, inputs: Sequence[int]) -> int:
        """Return the axis of the channels: that of an input with as many axes, or 1."""
        assert node.shape is not None
        layouts = [self._builder.layouts[i] for i in inputs]
        axes = [x.channel_axis for x in layouts if x.n_axes == len(node.shape)]
        return axes[0] if axes else 1

    def _steps_before(self, node: Node) -> Iterator[int]:
        for value in node.inputs:
            if value in self._without_step:
                yield from self._steps_before(value)
            elif value.depends_on_images:
                yield from self._builder.parts_of(value)


def _own_parameters(node: Node) -> Parameters:
    """Return the parameters that a node reads itself."""
    parameters = [x.target for x in node.inputs if x.kind == "parameter"]
    if isinstance(node.target, nn.Module):
        parameters += node.target.parameters()
    return frozenset(map(id, parameters))


def measure_tensors(
    graph: Graph, measured: Sequence[MeasuredTensor], images: Tensor
) -> dict[int, Tensor]:
    """Return the values of tensors in a drawn network, by index of the node."""
    wanted = {tensor.node for tensor in measured}
    with torch.no_grad():
        return {
            node.index: value.detach()
            for node, value in graph.run(images.clone())
            if node.index in wanted
        }


def restart_of_steps(
    steps: Sequence[Step], measured: Sequence[MeasuredTensor]
) -> list[MeasuredTensor | None]:
    """Return for each step the last measured tensor from which it is predicted, or None."""
    by_step = {tensor.step: tensor for tensor in measured}
    result: list[MeasuredTensor | None] = []
    for number, step in enumerate(steps):
        before = [x for i in step.inputs if (x := result[i]) is not None]
        last = max(before, key=lambda x: x.step, default=None)
        result.append(by_step.get(number, last))
    return result


def steps_before(steps: Sequence[Step], measured: Sequence[MeasuredTensor]) -> set[int]:
    """Return the steps on which a measured one depends: their cotangents are not predicted."""
    result: set[int] = set()
    starts = {tensor.step for tensor in measured}
    for number in range(len(steps) - 1, -1, -1):
        if number in starts or number in result:
            result |= set(steps[number].inputs)
    return result
