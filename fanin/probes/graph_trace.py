"""Record of the tensors of a graph in a forward pass: also of sums and of functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from fanin.graph import Graph, Node
from fanin.probes.trace import Layer, LayerTrace


@dataclass(frozen=True)
class TracedNode:
    """A node of a graph to record, its name, and the node of the activation that follows it."""

    name: str
    node: int
    activation: int | None = None


@dataclass(frozen=True)
class GraphTracer:
    """Function like `fanin.probes.trace.trace` that records nodes of a graph.

    Attributes
    ----------
    model
        The model whose graph was recorded.
    graph
        Its graph, for as many images as the tracer will get.
    nodes
        Nodes to record, in forward order.
    """

    model: nn.Module
    graph: Graph
    nodes: Sequence[TracedNode]
    _rebound: dict[nn.Module, Graph] = field(default_factory=dict, repr=False)

    def __call__(
        self, model: nn.Module, images: Float[Tensor, "image ..."]
    ) -> tuple[list[LayerTrace], Float[Tensor, "image logit"]]:
        """Run the graph with the weights of `model`, a copy of the recorded model."""
        graph = self._graph_of(model)
        wanted = {graph.output}
        for traced in self.nodes:
            node = graph.nodes[traced.node]
            wanted |= {node, _input(node)}
            if traced.activation is not None:
                wanted.add(graph.nodes[traced.activation])
        x = images.detach().requires_grad_().clone()
        values = {node: value for node, value in graph.run(x) if node in wanted}
        return [_layer_trace(traced, graph, values) for traced in self.nodes], values[graph.output]

    def _graph_of(self, model: nn.Module) -> Graph:
        if model is self.model:
            return self.graph
        if model not in self._rebound:  # keep one copy: draws use one network after the other
            self._rebound.clear()
            self._rebound[model] = self.graph.rebind(self.model, model)
        return self._rebound[model]


def _layer_trace(traced: TracedNode, graph: Graph, values: dict[Node, Tensor]) -> LayerTrace:
    node, activation = graph.nodes[traced.node], traced.activation
    return LayerTrace(
        traced.name,
        node.target if isinstance(node.target, Layer) else None,
        values[_input(node)],
        values[node],
        None if activation is None else values[graph.nodes[activation]],
    )


def _input(node: Node) -> Node:
    return next((value for value in node.inputs if value.depends_on_images), node)
