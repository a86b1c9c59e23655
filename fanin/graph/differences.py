"""Comparison of two graphs of one model, and of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fanin.graph.graph import Graph, Node
from fanin.graph.structure import entries

SIZE_OPERATIONS = ("reshape", "unflatten", "expand", "repeat")
"""Operations whose arguments may contain the number of images."""


def first_difference(first: Graph, second: Graph) -> tuple[Node, str] | None:
    """Return the first node that differs and how; None if the graphs are the same.

    The graphs may be of different numbers of images: sizes of the first axis are then ignored.
    """
    batch = _Batch(_n_images(first), _n_images(second))
    for a, b in zip(first.nodes, second.nodes, strict=False):
        difference = _difference(a, b, batch)
        if difference is not None:
            return a, difference
    if len(first.nodes) == len(second.nodes):
        return None
    node = max(first.nodes, second.nodes, key=len)[min(len(first.nodes), len(second.nodes))]
    return node, f"{_call_text(node)} runs in one case only"


@dataclass(frozen=True)
class _Batch:
    """Numbers of images of two graphs."""

    first: int
    second: int

    def is_same_size(self, a: Any, b: Any) -> bool:
        """Return True if two sizes or shapes are equal, or differ in the number of images only."""
        if isinstance(a, tuple) and isinstance(b, tuple) and a and b:
            return a[1:] == b[1:] and self.is_same_size(a[0], b[0])
        return _is_equal(a, b) or _is_equal((a, b), (self.first, self.second))

    def is_same_constant(self, a: Tensor, b: Tensor) -> bool:
        """Return True if two constants are equal, or the second repeats the first for each image.

        The first one is that of a single image if the numbers of images differ.
        """
        if a.shape == b.shape or self.first != 1 or not self.is_same_size(a.shape, b.shape):
            return _is_equal(a, b)
        return _is_equal(a.expand_as(b), b)


def _n_images(graph: Graph) -> int:
    shape = graph.nodes[0].shape
    assert shape is not None
    return shape[0]


def _difference(a: Node, b: Node, batch: _Batch) -> str | None:
    is_same_call = a.kind == b.kind and a.path == b.path and a.line == b.line
    if not is_same_call or not _same_target(a, b):
        return f"{_call_text(b)} runs in the place of {_call_text(a)}"
    if a.kind == "constant" and not batch.is_same_constant(a.target, b.target):
        if batch.first != batch.second:
            return "a constant differs"
        return (
            "a tensor that was taken for a constant differs, because it is computed outside of"
            " torch functions or from values that Python code read"
        )
    first = list(entries((a.args, a.kwargs or {})))
    second = list(entries((b.args, b.kwargs or {})))
    if [keys for keys, _ in first] != [keys for keys, _ in second]:
        return f"the arguments of {a.operation} differ"
    for (_, x), (_, y) in zip(first, second, strict=True):
        if isinstance(x, Node) and isinstance(y, Node):
            x, y = x.index, y.index
        is_same = batch.is_same_size if a.operation in SIZE_OPERATIONS else _is_equal
        if not is_same(x, y):
            return f"an argument of {a.operation} is {y} instead of {x}"
    if not batch.is_same_size(a.shape, b.shape):
        return f"the result of {a.operation} has shape {b.shape} instead of {a.shape}"
    return None


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


def _is_equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and is_close(a, b, 0.0)
    if isinstance(a, float) and a != a:
        return bool(b != b)
    try:
        return a is b or bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return False


def is_close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Return True if two tensors differ by at most `tolerance`, and have the same NaN and inf."""
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
    return not a.numel() or bool((a - b).abs().max() <= tolerance)
