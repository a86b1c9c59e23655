"""Plan of a graph: its steps with rules, and the tensors that are reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.graph import Graph, GraphError, Node, record
from fanin.graph.differences import first_difference
from fanin.theory.assumptions import NO_ASSUMPTIONS, Assumptions
from fanin.theory.field.sampling import Sampling
from fanin.theory.graph.build import Builder, fields_of, step_name
from fanin.theory.graph.layout import Layout
from fanin.theory.graph.memory import FieldSizes
from fanin.theory.graph.propagate import Step
from fanin.theory.graph.restart import MeasuredTensor, RestartingBuilder
from fanin.theory.graph.rules import add_node
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import LayerMoments

WEIGHT_OPERATIONS = ("linear", "conv1d", "conv2d", "conv3d")
NORMALIZATIONS = ("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm")
ARITHMETIC = ("add", "sub", "rsub", "mul")
REPORTED = (*WEIGHT_OPERATIONS, *NORMALIZATIONS, *ARITHMETIC, "cat")


@dataclass(frozen=True)
class GraphPlan:
    """The steps of a graph, and which of them are reported.

    Attributes
    ----------
    steps
        Operations in order.
    layouts
        Layout of each step's output.
    samples
        Samples that each field needs.
    joint
        True if all images share one field (batch normalization).
    graph
        The recorded graph, of one image unless they share a field.
    batch_graph
        The recorded graph of all images. It has the same nodes.
    reported
        Step of each reported node: weight layers, sums, products and normalizations, and the
        output.
    names
        Names of the reported nodes, each different.
    step_of
        Step of each node that is one tensor.
    measured
        Tensors that are measured in drawn networks, in order.
    """

    steps: tuple[Step, ...]
    layouts: tuple[Layout, ...]
    samples: int
    joint: bool
    graph: Graph
    batch_graph: Graph
    reported: Mapping[Node, int]
    names: tuple[str, ...]
    step_of: Mapping[Node, int]
    measured: tuple[MeasuredTensor, ...] = ()


def plan_graph(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel *position"],
    sampling: Sampling,
    *,
    joint: bool = False,
    assumptions: Assumptions = NO_ASSUMPTIONS,
    restart: bool = False,
) -> GraphPlan:
    """Record a model's graph and find the rules of its operations.

    Parameters
    ----------
    model, moments, images, sampling
        As in `predict_graph`.
    joint
        True if all images share one field, even if they do not change each other's moments.
    assumptions
        Operations to replace.
    restart
        Measure tensors that theory cannot predict.

    Raises
    ------
    UnpredictableLayer
        The graph cannot be recorded, or theory has no rule for an operation.
    """
    batch_graph = _record(model, images)
    joint = joint or len(images) == 1 or couples_images(batch_graph)
    graph = batch_graph if joint else _record_one(model, images[:1])
    builder = Builder(graph, model, moments, images if joint else images[:1], assumptions)
    restarting = RestartingBuilder(builder)
    for node in graph.nodes:
        if restart:
            restarting.add(node)
        else:
            add_node(builder, node)
    if graph is not batch_graph:
        _require_same(builder, batch_graph)
    if batch_graph.value_reads:
        _require_same_with_other_weights(builder, batch_graph, model, images)
    last = builder.step_of(graph.output)
    sizes = FieldSizes(
        tuple(builder.steps), tuple(x.n_positions for x in builder.layouts), sampling.samples
    )
    sizes.check(builder.n_images, coupled=couples_images(graph))
    reported = {
        node: step for node, step in builder.numbers.items() if step <= last and is_reported(node)
    }
    if last not in reported.values():
        reported[graph.output] = last
    return GraphPlan(
        steps=tuple(builder.steps[: last + 1]),
        layouts=tuple(builder.layouts[: last + 1]),
        samples=sizes.samples(builder.n_images),
        joint=joint,
        graph=graph,
        batch_graph=batch_graph,
        reported=reported,
        names=distinct([step_name(node) for node in reported]),
        step_of=builder.numbers,
        measured=tuple(x for x in restarting.measured if x.step <= last),
    )


def _record(model: nn.Module, images: Float[Tensor, "image channel *position"]) -> Graph:
    """Record the graph of a model that returns one tensor, such as `{"logits": y}`."""
    graph = record(model, images)
    outputs = list(graph.outputs.values())
    if len(outputs) > 1:
        names = ", ".join(graph.outputs)
        raise UnpredictableLayer(
            "", f"it has several outputs ({names}); write a module that returns one of them"
        )
    return replace(graph, output=outputs[0])


def _record_one(model: nn.Module, image: Float[Tensor, "image channel *position"]) -> Graph:
    try:
        return _record(model, image)
    except GraphError as error:
        reason = (
            f"on one image, {error.reason}; write squeeze(dim) instead of squeeze(), which removes"
            " the axis of a single image"
        )
        raise GraphError(reason, error.path, error.line) from error


def _require_same(builder: Builder, batch_graph: Graph) -> None:
    """Raise an error if the model computes something else on one image than on several."""
    difference = first_difference(builder.graph, batch_graph)
    if difference is None:
        return
    node, text = difference
    shape = batch_graph.nodes[0].shape
    assert shape is not None
    raise builder.refuse(
        node,
        f"it depends on the number of images: on {shape[0]} instead of 1, {text}",
        "pass one image (max_images=1)",
    )


def _require_same_with_other_weights(
    builder: Builder, graph: Graph, model: nn.Module, images: Tensor
) -> None:
    """Raise an error if Python code computes numbers from weights that an init draws."""
    copy = deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one, other in zip(model.parameters(), copy.parameters(), strict=True):
            if id(one) in builder.drawn:
                other.copy_(3 * torch.randn(one.shape, generator=generator, dtype=torch.float64))
    try:
        difference = first_difference(graph.rebind(model, copy), _record(copy, images))
    except GraphError:  # such as an assertion about the weights
        return
    if difference is None:
        return
    node, text = difference
    raise builder.refuse(
        node,
        f"with other weights, {text}; Python code reads the value of weights, and an init draws"
        f" them anew (values are read at {'; '.join(graph.value_reads)})",
        "use tensor operations, or a parameter of its own",
    )


def is_reported(node: Node) -> bool:
    """Return True for weight layers, normalizations, concatenations, and sums of two tensors."""
    if not node.depends_on_images or node.operation not in REPORTED:
        return False
    return node.operation not in ARITHMETIC or len(fields_of(node)) > 1


def couples_images(graph: Graph) -> bool:
    """Return True if the images of a batch change each other's moments (batch normalization)."""
    return any(
        (node.operation == "batch_norm" and node.arguments["training"])
        or node.operation == "mean_only"
        for node in graph.nodes
    )


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Add numbers to names that occur several times, such as two sums in one module.

    Examples
    --------
    >>> distinct(["conv", "add", "add"])
    ('conv', 'add', 'add_2')
    >>> distinct(["norm", "norm", "norm_2"])
    ('norm', 'norm_3', 'norm_2')
    """
    used, seen = set(names), set[str]()
    result = []
    for name in names:
        number = 2
        unique = name
        if name in seen:
            while (unique := f"{name}_{number}") in used:
                number += 1
        used.add(unique)
        seen.add(name)
        result.append(unique)
    return tuple(result)
