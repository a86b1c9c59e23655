"""Runs of a model from one state: plain, recorded and replayed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fanin.graph.errors import GraphError
from fanin.graph.graph import Graph, Node
from fanin.graph.recorder import Recorder
from fanin.graph.run_record import Alteration, RunRecord, ValueRead
from fanin.graph.source import error_line
from fanin.graph.state import ModelState, RandomState, copied_buffers
from fanin.graph.structure import entries
from fanin.models.layers import dropout_masks


@dataclass(frozen=True)
class RecordedRun:
    """Graph of a run, and the values of its nodes.

    Attributes
    ----------
    graph
        Without the nodes on which the output does not depend.
    values
        For each node its tensor and the tensor's version when the node was recorded; None for a
        node of several tensors.
    value_reads
        Places where Python code read a value.
    """

    graph: Graph
    values: list[tuple[Tensor, int] | None]
    value_reads: list[ValueRead]


class Runs:
    """Runs of a model from the same state and with the same random numbers."""

    def __init__(self, model: nn.Module, is_leaf: Callable[[nn.Module], bool]) -> None:
        self._model = model
        self._is_leaf = is_leaf
        self._state = ModelState(model)
        self._random = RandomState()
        self._buffers = dict(model.named_buffers())
        self._changed: list[Tensor] = []  # in the last run, through `.data`

    def _restored(self, function: Callable[[Tensor], Any], images: Tensor) -> Any:
        try:
            with torch.enable_grad(), copied_buffers(self._model):
                self._set_dropout_masks(len(images))
                return function(images.detach().clone().requires_grad_().clone())
        finally:
            self._changed = self._state.restore()
            self._random.restore()

    def _set_dropout_masks(self, n_images: int) -> None:
        """Give masks to the `SeededDropout` layers that need one; the masks are buffers."""
        generator = torch.Generator().manual_seed(0)
        for name, mask in dropout_masks(self._model, n_images, generator).items():
            layer = self._model.get_submodule(name.removesuffix("mask").removesuffix("."))
            if layer.training and layer.mask is None:
                layer._buffers["mask"] = mask

    def run(self, images: Tensor) -> Any:
        """Return the model's output."""
        return self._restored(self._model, images)

    def replay(
        self, graph: Graph, images: Tensor, settle: Callable[[Node, Any], Tensor | None]
    ) -> None:
        """Run the nodes; `settle` gets each value and may return another for the later nodes."""

        def replay(x: Tensor) -> None:
            steps = graph.run(x)
            with suppress(StopIteration):
                node, value = next(steps)
                while True:
                    node, value = steps.send(settle(node, value))

        self._restored(replay, images)

    def record(self, images: Tensor, alteration: Alteration | None = None) -> RecordedRun:
        """Return the graph without the nodes that do not affect the output."""
        recorder = Recorder(self._model, self._is_leaf, self._buffers, alteration)
        try:
            run_record = self._restored(recorder.run, images)
        except GraphError:
            raise
        except Exception as error:
            raise GraphError(
                f"its forward pass raises {type(error).__name__}: {error}",
                recorder.failed_path,
                error_line(error),
            ) from error
        for name, parameter in self._model.named_parameters():
            if any(tensor is parameter for tensor in self._changed):
                raise GraphError(f"its forward pass changes the values of {name}; do it before")
        return _prune(run_record)


def _prune(run: RunRecord) -> RecordedRun:
    outputs = [node for _, node in entries(run.output) if isinstance(node, Node)]
    if not outputs:
        raise GraphError("it returns no tensor")
    needed = {*outputs, run.nodes[0]}
    for node in reversed(run.nodes):
        if node in needed or node.is_random:  # each run must draw the same numbers
            needed.add(node)
            needed.update(node.inputs)
    nodes = [node for node in run.nodes if node in needed]
    values = [run.values.get(node.index) for node in nodes]
    for index, node in enumerate(nodes):
        node.index = index
    reads = run.value_reads
    lines = tuple(dict.fromkeys(read.line or read.function for read in reads))
    graph = Graph(tuple(nodes), run.output, lines)
    return RecordedRun(graph, values, reads)
