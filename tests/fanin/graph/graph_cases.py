"""Parts of the tests of graphs: a case, the text of a graph, and two small modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fanin.graph import Graph, Node


@dataclass
class Case:
    build: Callable[[], nn.Module]
    expected: str | list[str]  # of each output, in order
    image: tuple[int, ...] = (4, 8, 8)


def expression(node: Node) -> str:
    """Return a node as a nested expression of operations."""
    short = {"input": "x", "parameter": "p", "buffer": "b", "constant": "c"}
    if node.kind in short:
        return short[node.kind]
    return f"{node.operation}({', '.join(map(expression, node.inputs))})"


def expressions(graph: Graph) -> list[str]:
    return [expression(node) for node in graph.outputs.values()]


def conv(n_in: int = 4, n_out: int = 4, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)


class Lambda(nn.Module):
    def __init__(self, function: Callable[..., Any], *modules: nn.Module):
        super().__init__()
        self.function = function
        self.children_ = nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.children_)
