"""Description of the reported tensors of a graph: shapes, activations, and place in the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from fanin.graph import OPERATIONS, Graph, Node
from fanin.theory.graph.build import elementwise_function, fields_of
from fanin.theory.graph.plan import (
    ARITHMETIC,
    NORMALIZATIONS,
    WEIGHT_OPERATIONS,
    GraphPlan,
)
from fanin.theory.graph.propagate import Step
from fanin.theory.graph.rules import RULES
from fanin.theory.network import describe_module

IMAGES = "images"  # in place of an activation before the first layers
PASSED = (*NORMALIZATIONS, *ARITHMETIC, "div", "neg", "identity", "clone", "contiguous", "to")


@dataclass(frozen=True)
class GraphRow:
    """One reported tensor.

    Attributes
    ----------
    name
        Name in `GraphPlan.names`.
    step
        Number of its step.
    node
        Index of its node in `Graph.nodes`.
    path
        Path of the module that computes it; "" for a function.
    weight_layer
        Path of the weight layer that computes it; "" for sums and normalizations.
    module
        Type and sizes of the module, or the name of the operation.
    channels, positions
        Number of channels, and of positions per channel of one image.
    output_shape
        Shape for one image.
    activation
        Type of the activation that reads it, also after a normalization or scalar; "" if there is
        none.
    activation_node
        Index of the node of that activation, or None.
    input_activation
        Type of the activation that computes a weight layer's input; "" if there is none, `images`
        for the network's input.
    in_branch
        True if another path from the images to the output avoids it.
    """

    name: str
    step: int
    node: int
    path: str
    weight_layer: str
    module: str
    channels: int
    positions: int
    output_shape: tuple[int, ...]
    activation: str
    activation_node: int | None
    input_activation: str
    in_branch: bool

    def describe(self, model: nn.Module) -> tuple[str, str, str]:
        """Return type, output shape and number of parameters, as `describe_layer` does."""
        path = self.path or self.weight_layer
        module = model.get_submodule(path) if path else nn.Module()
        parameters = sum(parameter.numel() for parameter in module.parameters())
        return self.module, "×".join(map(str, self.output_shape)), f"{parameters:,}"


def find_rows(plan: GraphPlan, modules: Mapping[str, nn.Module]) -> tuple[GraphRow, ...]:
    """Describe the reported tensors of a graph, in forward order.

    Parameters
    ----------
    plan
        The plan of the graph.
    modules
        Modules of the model by path.
    """
    readers = readers_of(plan.graph)
    rows = []
    for name, (node, step) in zip(plan.names, plan.reported.items(), strict=True):
        layout, weight_layer = plan.layouts[step], weight_path(node)
        activation = activation_after(node, readers)
        assert node.shape is not None
        rows.append(
            GraphRow(
                name=name,
                step=step,
                node=node.index,
                path=node.path if node.kind == "module" else "",
                weight_layer=weight_layer,
                module=_module_text(node, modules, layout.channels),
                channels=layout.channels,
                positions=layout.n_positions,
                output_shape=tuple(node.shape[1:]),
                activation="" if activation is None else _function_name(activation),
                activation_node=None if activation is None else activation.index,
                input_activation=_input_activation(node, plan.reported) if weight_layer else "",
                in_branch=_has_other_path(plan.steps, step),
            )
        )
    return tuple(rows)


def readers_of(graph: Graph) -> dict[Node, list[Node]]:
    """Return the nodes that read each node."""
    readers: dict[Node, list[Node]] = {node: [] for node in graph.nodes}
    for node in graph.nodes:
        for value in node.inputs:
            readers[value].append(node)
    return readers


def weight_path(node: Node) -> str:
    """Return the path of the weight layer that a node calls; "" if it calls none."""
    if node.operation not in WEIGHT_OPERATIONS:
        return ""
    if node.kind == "module":
        return node.path
    weight = node.arguments["weight"]
    return weight.path.rpartition(".")[0] if isinstance(weight, Node) else ""


def _module_text(node: Node, modules: Mapping[str, nn.Module], channels: int) -> str:
    if path := weight_path(node):
        return describe_module(modules[path])
    if not isinstance(node.target, nn.Module):
        return node.operation
    kind, groups = type(node.target).__name__, getattr(node.target, "num_groups", None)
    return f"{kind}({channels})" if groups is None else f"{kind}({groups}, {channels})"


def activation_after(node: Node, readers: Mapping[Node, Sequence[Node]]) -> Node | None:
    """Return the elementwise function of a tensor, of its normalization, or of a scalar multiple.

    Sums and products with another tensor end the search.
    """
    queue = list(readers[node])
    while queue:
        reader = queue.pop(0)
        if reader.operation in PASSED:
            if len(fields_of(reader)) == 1:
                queue += readers[reader]
        elif reader.operation not in RULES and elementwise_function(reader) is not None:
            return reader
    return None


def _input_activation(node: Node, reported: Mapping[Node, int]) -> str:
    """Return the activation before a weight layer; pooling and reshaping may be between them."""
    node = fields_of(node)[0]
    while node not in reported:
        if node.kind == "input":
            return IMAGES
        if node.operation not in RULES:
            return _function_name(node)
        node = fields_of(node)[0]
    return ""


def _function_name(node: Node) -> str:
    """Return the class of an activation, also if it is called as a function.

    Examples
    --------
    >>> import torch
    >>> _function_name(Node(0, "function", torch.relu)), _function_name(Node(0, "x", nn.GELU()))
    ('ReLU', 'GELU')
    """
    if isinstance(node.target, nn.Module):
        return type(node.target).__name__
    operation = OPERATIONS.get(node.operation)
    modules = () if operation is None else operation.modules
    return modules[0].__name__ if modules else node.operation


def _has_other_path(steps: Sequence[Step], avoided: int) -> bool:
    """Return True if the last step depends on the images through a path that avoids a step."""
    reached: set[int] = set()
    for number, step in enumerate(steps):
        is_reached = step.operation is None or not reached.isdisjoint(step.inputs)
        if is_reached and number != avoided:
            reached.add(number)
    return len(steps) - 1 in reached
