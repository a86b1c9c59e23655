"""Tracer of the tensors of any module that theory reports, also where theory has no rule."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fanin.graph import record
from fanin.probes.graph_trace import GraphTracer, TracedNode
from fanin.theory.graph.build import step_name
from fanin.theory.graph.plan import distinct, is_reported
from fanin.theory.graph.rows import activation_after, readers_of


def graph_tracer(model: nn.Module, images: Float[Tensor, "image ..."]) -> GraphTracer:
    """Return a tracer of the weight layers, sums, products and normalizations of a module.

    They have the names of theory's rows. The output of the network is not traced.

    Parameters
    ----------
    model
        Any module, in the mode in which it will be traced.
    images
        Images of the shape, and in the number, that the tracer will get.

    Raises
    ------
    GraphError
        The graph cannot be recorded.
    """
    graph = record(model, images)
    nodes = [node for node in graph.nodes if is_reported(node)]
    readers = readers_of(graph)
    traced = []
    for name, node in zip(distinct([step_name(node) for node in nodes]), nodes, strict=True):
        activation = activation_after(node, readers)
        after = None if activation is None else activation.index
        traced.append(TracedNode(name, node.index, after))
    return GraphTracer(model, graph, traced)
