"""Key of a recorded graph for the cache of predictions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fanin.graph import Graph, Node
from fanin.graph.structure import map_structure
from fanin.theory.graph.network import GraphNetwork

Key = tuple[Any, ...]


def network_key(network: GraphNetwork) -> Key:
    """Return all that predictions of a graph depend on, as arguments of `memoized`.

    It contains what the model computes, wherever its code reads the numbers. The weights of the
    layers, which are drawn, are left out.
    """
    plan = network.plan
    graphs = (plan.graph,) if plan.graph is plan.batch_graph else (plan.graph, plan.batch_graph)
    layers = (f"{layer}." if layer else "" for layer in network.moments)
    drawn = {layer + name for layer in layers for name in ("weight", "bias")}
    keys = tuple(_graph_key(graph, drawn) for graph in graphs)
    return (keys, dict(network.moments), network.images)


def _graph_key(graph: Graph, drawn: Collection[str]) -> Key:
    return (*(_node_key(node, drawn) for node in graph.nodes), _entry(graph.output))


def _node_key(node: Node, drawn: Collection[str]) -> Key:
    is_drawn = node.kind == "parameter" and node.path in drawn
    return (
        *(node.kind, None if is_drawn else node.target, node.path),
        *map_structure(_entry, (node.args, node.kwargs or {}, node.mutates)),
        *(node.shape, node.dtype),
        *(node.requires_grad, node.depends_on_images, node.is_random),
    )


def _entry(value: Any) -> Any:
    return ("node", value.index) if isinstance(value, Node) else value
