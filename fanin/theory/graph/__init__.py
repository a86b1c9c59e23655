"""Theory `field` on the graph of any module."""

from fanin.theory.graph.predict import predict_graph

__all__ = ["predict_graph"]
