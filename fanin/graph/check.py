"""Check of a graph: its replay gives the model's values, on its own images and on others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import sqrt
from typing import Any, NoReturn

import torch
from torch import Tensor

from fanin.graph.differences import first_difference, is_close
from fanin.graph.errors import GraphError
from fanin.graph.graph import Node
from fanin.graph.run_record import Alteration, ValueRead
from fanin.graph.runs import RecordedRun, Runs
from fanin.graph.source import error_line
from fanin.graph.structure import entries

ALTERED_FUNCTIONS = ("bool", "item", "int", "float", "index", "equal", "allclose", "is_nonzero")


def check(runs: Runs, recorded: RecordedRun, images: Tensor) -> None:
    """Compare the graph with plain and with recorded runs of the model.

    Raises
    ------
    GraphError
        The model runs other operations on other images, or the values of a node differ.
    """
    _check_values(runs, recorded, images, "in a second run on the same images")
    for read in dict.fromkeys(recorded.value_reads):
        if read.depends_on_images and read.function in ALTERED_FUNCTIONS:
            _check_read(runs, recorded, images, read)
    _check_values(runs, recorded, other_images(images), "on images with other values")


def other_images(images: Tensor) -> Tensor:
    """Return images of the same range with other values: bright for dark, and mirrored.

    Examples
    --------
    >>> other_images(torch.tensor([[0.0, 0.2, 1.0]]))
    tensor([[0.0000, 0.8000, 1.0000]])
    """
    low, high = images.amin(), images.amax()
    if low == high:
        ramp = torch.linspace(0, 1, images.numel(), dtype=images.dtype, device=images.device)
        return low + ramp.reshape(images.shape)
    axes = range(1 if images.ndim == 2 else 2, images.ndim)
    other = low + high - images.flip(tuple(axes))
    return other if not torch.equal(other, images) else images.clamp(max=(low + high) / 2)


def _check_read(runs: Runs, recorded: RecordedRun, images: Tensor, read: ValueRead) -> None:
    """Compare with runs in which the value that Python code reads is another one.

    The exception of an assertion, such as `assert x.isfinite().all()`, is ignored.
    """
    for sign in (1, -1):
        try:
            with warnings.catch_warnings(action="ignore"):  # such as that a tensor is not finite
                altered = runs.record(images, Alteration(read, sign))
        except GraphError as error:
            if error.__cause__ is not None:  # the model raised it
                continue
            raise
        _check_nodes(recorded, altered, "for another value")


def _check_nodes(first: RecordedRun, second: RecordedRun, situation: str) -> None:
    difference = first_difference(first.graph, second.graph)
    if difference is None:
        return
    node, text = difference
    advice = "use tensor operations such as torch.where instead of Python values"
    reason = f"{situation}, {text}; {advice}"
    reads = dict.fromkeys((*first.value_reads, *second.value_reads))
    if reads:
        lines = "; ".join(f"{read.line} ({read.function})" for read in reads)
        reason = (
            f"Python code reads the value of a tensor at {lines}; {advice}: {situation}, {text}"
        )
    raise GraphError(reason, node.path, node.line)


def _check_values(runs: Runs, recorded: RecordedRun, images: Tensor, situation: str) -> None:
    """Compare the graph with a plain and a recorded run on one batch."""
    try:
        output = runs.run(images)
    except Exception as error:
        raise GraphError(
            f"{situation}, model(images) raises {type(error).__name__}: {error}",
            line=error_line(error),
        ) from error
    again = runs.record(images)
    _check_nodes(recorded, again, situation)
    values = _ValueCheck(again)
    runs.replay(recorded.graph, images, values)
    values.check_output(output)


class _ValueCheck:
    """Comparison of replayed values with those of a recorded run.

    Each node runs on the values that its inputs had in the recorded run, so that differences do not
    grow. It runs the same kernel and usually gives the same value bit by bit. Where the memory has
    another layout, sums have another order: a sum of k terms may then differ by sqrt(k) roundings
    of the largest term.
    """

    def __init__(self, run: RecordedRun) -> None:
        self._run = run
        self._values: dict[int, Any] = {}

    def __call__(self, node: Node, value: Any) -> Tensor | None:
        """Return the recorded value, or None if it was changed in place since then."""
        entry = self._run.values[node.index]
        self._values[node.index] = value
        # What was changed in place is compared at the node of the change.
        if node.kind == "buffer" or entry is None or entry[0]._version != entry[1]:
            return None
        recorded = entry[0]
        if not is_close(recorded, value, 0.0):
            inputs = [self._run.values[n.index] for n in node.inputs]
            read = [recorded, *(entry[0] for entry in inputs if entry is not None)]
            if not is_close(recorded, value, _rounding(recorded, read)):
                self._fail(node)
        return recorded

    def _fail(self, node: Node) -> NoReturn:
        raise GraphError(
            f"the replay of {node.operation} gives other values than the model; something changes a"
            " tensor where it cannot be recorded (a view, a buffer, a C++ extension). Write a new"
            " tensor instead of changing one in place",
            node.path,
            node.line,
        )

    def check_output(self, output: Any) -> None:
        """Raise GraphError if the output of a plain run is not that of the replay."""
        nodes = self._run.graph.nodes
        expected = {keys: value for keys, value in entries(output) if isinstance(value, Tensor)}
        outputs = {
            keys: node for keys, node in entries(self._run.graph.output) if isinstance(node, Node)
        }
        if expected.keys() != outputs.keys():
            names = sorted(map(str, expected))
            raise GraphError(f"it returns other tensors in a plain run: {names}")
        for keys, node in outputs.items():
            value = self._values[node.index]
            # A GPU may add in another order in each layer; these roundings add up.
            if not is_close(expected[keys], value, sqrt(len(nodes)) * _rounding(value, [value])):
                raise GraphError(
                    "model(images) gives another output when it is not recorded, so the graph is"
                    " not that of the model",
                    node.path,
                    node.line,
                )


def _rounding(value: Tensor, tensors: Sequence[Tensor]) -> float:
    """Return sqrt(k) roundings of the largest number in tensors of at most k elements."""
    if not (value.is_floating_point() or value.is_complex()):
        return 0.0
    finite = [t.detach()[t.isfinite()].abs() for t in tensors]
    largest = max((float(t.max()) for t in finite if t.numel()), default=0.0)
    return torch.finfo(value.dtype).eps * sqrt(max(t.numel() for t in tensors)) * largest
