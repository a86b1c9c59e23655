"""The computation graph of any module, recorded by running it once on images."""

from fanin.graph.errors import GraphError
from fanin.graph.graph import Graph, Node
from fanin.graph.leaves import is_leaf
from fanin.graph.operations import OPERATIONS, Operation
from fanin.graph.recording import record

__all__ = ["OPERATIONS", "Graph", "GraphError", "Node", "Operation", "is_leaf", "record"]
