"""Check of a graph: its replay gives the model's values, on its own images and on others."""

from __future__ import annotations

from math import sqrt
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fanin.graph.errors import GraphError
from fanin.graph.graph import Node
from fanin.graph.runs import RecordedRun, Runs
from fanin.graph.source import error_line
from fanin.graph.structure import entries


def check(runs: Runs, recorded: RecordedRun, images: Tensor) -> None:
    """Compare the graph with plain and with recorded runs of the model.

    Raises
    ------
    GraphError
        The model runs other operations on other images, or the values of a node differ.
    """
    check_on(runs, recorded, images, "in a second run on the same images")
    check_on(runs, recorded, other_images(images), "on images with other values")
    try:
        runs.run(-images)
    except Exception:  # some models reject negative values
        return
    check_on(runs, recorded, -images, "on images with other values")


def check_on(runs: Runs, recorded: RecordedRun, images: Tensor, situation: str) -> None:
    """Compare the graph with a plain and a recorded run on one batch."""
    try:
        output = runs.run(images)
    except Exception as error:
        raise GraphError(
            f"{situation}, model(images) raises {type(error).__name__}: {error}",
            line=error_line(error),
        ) from error
    again = runs.record(images)
    _Comparison(recorded, again, situation).check_nodes()
    _compare_values(recorded, again, runs.replay(recorded.graph, images), output)


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


class _Comparison:
    """Comparison of the nodes of two runs."""

    def __init__(self, first: RecordedRun, second: RecordedRun, situation: str) -> None:
        self._nodes = (first.graph.nodes, second.graph.nodes)
        reads = [*first.value_reads, *second.value_reads]
        self._reads = list(dict.fromkeys(f"{read.line} ({read.function})" for read in reads))
        self._situation = situation

    def check_nodes(self) -> None:
        """Raise GraphError at the first node that differs."""
        for a, b in zip(*self._nodes, strict=False):
            is_same_call = a.kind == b.kind and a.path == b.path and a.line == b.line
            if not is_same_call or not _same_target(a, b):
                self._fail(a, f"{_call_text(b)} runs in the place of {_call_text(a)}")
            if a.kind == "constant" and not _equal(a.target, b.target):
                self._fail(
                    a,
                    "a tensor that was taken for a constant differs, because it is computed"
                    " outside of torch functions or from values that Python code read",
                )
            self._check_arguments(a, b)
            if a.shape != b.shape:
                self._fail(
                    a, f"the result of {a.operation} has shape {b.shape} instead of {a.shape}"
                )
        longer = max(self._nodes, key=len)
        if len(self._nodes[0]) != len(self._nodes[1]):
            node = longer[min(map(len, self._nodes))]
            self._fail(node, f"{_call_text(node)} runs in one case only")

    def _check_arguments(self, a: Node, b: Node) -> None:
        first = list(entries((a.args, a.kwargs or {})))
        second = list(entries((b.args, b.kwargs or {})))
        if [keys for keys, _ in first] != [keys for keys, _ in second]:
            self._fail(a, f"the arguments of {a.operation} differ")
        for (_, x), (_, y) in zip(first, second, strict=True):
            if isinstance(x, Node) and isinstance(y, Node):
                x, y = x.index, y.index
            if not _equal(x, y):
                self._fail(a, f"an argument of {a.operation} is {y} instead of {x}")

    def _fail(self, node: Node, difference: str) -> NoReturn:
        advice = "use tensor operations such as torch.where instead of Python values"
        if self._reads:
            lines = "; ".join(self._reads)
            advice = f"Python code reads the value of a tensor at {lines}; {advice}"
        raise GraphError(f"{self._situation}, {difference}; {advice}", node.path, node.line)


def _call_text(node: Node) -> str:
    where = node.line or node.path
    return f"{node.operation} ({where})" if where else node.operation


def _same_target(a: Node, b: Node) -> bool:
    if isinstance(a.target, Tensor):
        return a.kind == "constant" or a.target is b.target
    if isinstance(a.target, nn.Module):  # a layer without weights may be created in forward
        has_weights = next(a.target.parameters(), None) is not None
        return a.target is b.target or (type(a.target) is type(b.target) and not has_weights)
    return bool(a.target == b.target)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and _is_close(a, b, 0.0)
    if isinstance(a, float) and a != a:
        return bool(b != b)
    try:
        return a is b or bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return False


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
        if not _is_close(entry[0], value, eps * sqrt(terms * (node.index + 1))):
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
        if not _is_close(expected[keys], replayed[node.index], tolerance):
            raise GraphError(
                "the replay of its graph gives another output than model(images); it computes"
                " something else while it is recorded",
                node.path,
                node.line,
            )


def _is_close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Return True if two tensors agree relative to the largest value."""
    a, b = a.detach(), b.detach()
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b):
        return True
    if not (a.is_floating_point() or a.is_complex()):
        return False
    is_finite = a.isfinite()
    if not torch.equal(is_finite, b.isfinite()):
        return False
    if not torch.equal(a[~is_finite].nan_to_num(), b[~is_finite].nan_to_num()):
        return False
    a, b = a[is_finite], b[is_finite]
    return not a.numel() or bool((a - b).abs().max() <= tolerance * a.abs().max())
