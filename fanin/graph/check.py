"""Check of a graph: its replay gives the model's values, on its own images and on others."""

from __future__ import annotations

import warnings
from math import sqrt
from typing import Any

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
    reads = dict.fromkeys((*first.value_reads, *second.value_reads))
    if reads:
        lines = "; ".join(f"{read.line} ({read.function})" for read in reads)
        advice = f"Python code reads the value of a tensor at {lines}; {advice}"
    raise GraphError(f"{situation}, {text}; {advice}", node.path, node.line)


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
    _compare_values(recorded, again, runs.replay(recorded.graph, images), output)


def _compare_values(
    recorded: RecordedRun, again: RecordedRun, replayed: list[Any], output: Any
) -> None:
    """Raise GraphError at the first node whose replayed value is not the recorded one.

    The replay runs the same kernels, so values are usually equal bit by bit. Kernels may choose
    another order of summation: a sum of k terms then differs by about sqrt(k) roundings, and the
    roundings of n nodes add up as sqrt(n).
    """
    nodes = recorded.graph.nodes
    terms = max((entry[0].numel() for entry in again.values if entry is not None), default=1)
    eps = 0.0
    for node, entry, value in zip(nodes, again.values, replayed, strict=True):
        if node.dtype is not None and (node.dtype.is_floating_point or node.dtype.is_complex):
            eps = max(eps, torch.finfo(node.dtype).eps)
        # What was changed in place since then is compared at the node of the change.
        if node.kind == "buffer" or entry is None or entry[0]._version != entry[1]:
            continue
        if not is_close(entry[0], value, eps * sqrt(terms * (node.index + 1))):
            raise GraphError(
                f"the replay of {node.operation} gives other values than the model; something"
                " changes a tensor where it cannot be recorded (a view, a buffer, a C++ extension)."
                " Write a new tensor instead of changing one in place",
                node.path,
                node.line,
            )
    tolerance = eps * sqrt(terms * len(nodes))
    expected = {keys: value for keys, value in entries(output) if isinstance(value, Tensor)}
    outputs = {keys: n for keys, n in entries(recorded.graph.output) if isinstance(n, Node)}
    if expected.keys() != outputs.keys():
        raise GraphError(f"it returns other tensors in a plain run: {sorted(map(str, expected))}")
    for keys, node in outputs.items():
        if not is_close(expected[keys], replayed[node.index], tolerance):
            raise GraphError(
                "the replay of its graph gives another output than model(images); it computes"
                " something else while it is recorded",
                node.path,
                node.line,
            )
