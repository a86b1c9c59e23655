"""Tensors of a run and the nodes that hold their values, through views and changes in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fanin.graph.graph import Node

Geometry = tuple[int, tuple[int, ...], tuple[int, ...]]


@dataclass
class _Entry:
    """A tensor, the node that has its value, and the number of changes of its memory by then."""

    tensor: Tensor
    node: Node
    n_changes: int
    recompute: Callable[[], Node] | None  # for a view: repeat the view of the current value


@dataclass
class _Change:
    tensor: Tensor
    geometry: Geometry
    node: Node


class TensorNodes:
    """Map from tensors to nodes.

    Several tensors may share memory (views). A change in place of one of them is a new value of
    all that overlap with it. The map holds the tensors, so that their ids and memory are not
    reused during the run.

    Parameters
    ----------
    overwrite
        Function of (node, changed node, geometry, changed geometry, tensor) that returns the node
        of a tensor whose memory was changed in part through a view.
    """

    def __init__(self, overwrite: Callable[[Node, Node, Geometry, Geometry, Tensor], Node]) -> None:
        self._overwrite = overwrite
        self._entries: dict[int, _Entry] = {}
        self._by_memory: dict[int, list[_Entry]] = {}
        self._changes: dict[int, list[_Change]] = {}

    def add(self, tensor: Tensor, node: Node, recompute: Callable[[], Node] | None = None) -> None:
        """Set the node of a tensor."""
        key = memory(tensor)
        entry = _Entry(tensor, node, len(self._changes.get(key, ())), recompute)
        self._entries[id(tensor)] = entry
        self._by_memory.setdefault(key, []).append(entry)

    def change(self, tensor: Tensor, node: Node) -> None:
        """Set the node of a tensor that was changed in place."""
        changes = self._changes.setdefault(memory(tensor), [])
        changes.append(_Change(tensor, geometry(tensor), node))
        entry = self._entries.get(id(tensor))
        if entry is None:
            self.add(tensor, node)
        else:
            entry.node, entry.n_changes = node, len(changes)

    def get(self, tensor: Tensor) -> Node | None:
        """Return the node that has the tensor's current value; None for an unknown tensor."""
        entry = self._entries.get(id(tensor)) or self._alias(tensor)
        if entry is None:
            return None
        changes = self._changes.get(memory(tensor), [])
        unseen, entry.n_changes = changes[entry.n_changes :], len(changes)
        place = geometry(entry.tensor)
        for change in unseen:
            if change.geometry == place:
                entry.node = change.node
            elif not _overlap(entry.tensor, change.tensor):
                continue
            elif entry.recompute is not None:
                entry.node = entry.recompute()
                break
            else:
                entry.node = self._overwrite(
                    entry.node, change.node, place, change.geometry, entry.tensor
                )
        return entry.node

    def _alias(self, tensor: Tensor) -> _Entry | None:
        """Return a known tensor with the same values in the same memory."""
        for entry in reversed(self._by_memory.get(memory(tensor), [])):
            same_memory = tensor.numel() and geometry(entry.tensor) == geometry(tensor)
            same_gradient = tensor.requires_grad == entry.node.requires_grad
            if same_memory and same_gradient and entry.tensor.dtype == tensor.dtype:
                self._entries[id(tensor)] = _Entry(
                    tensor, entry.node, entry.n_changes, entry.recompute
                )
                return self._entries[id(tensor)]
        return None


def memory(tensor: Tensor) -> int:
    """Return the address of a tensor's storage."""
    return tensor.untyped_storage().data_ptr()


def geometry(tensor: Tensor) -> Geometry:
    """Return the place of a tensor in its storage: offset, shape and strides."""
    return int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()


def overwrite(old: Tensor, new: Tensor, place: Geometry, new_place: Geometry) -> Tensor:
    """Return `old` after `new` was written into its memory through a view.

    Examples
    --------
    >>> x = torch.zeros(4)
    >>> y = x[1:3]
    >>> overwrite(x, torch.ones(2), geometry(x), geometry(y))
    tensor([0., 1., 1., 0.])
    """
    buffer = old.new_zeros(max(_extent(place), _extent(new_place)))
    buffer.as_strided(place[1], place[2], place[0]).copy_(old)
    buffer.as_strided(new_place[1], new_place[2], new_place[0]).copy_(new)
    return buffer.as_strided(place[1], place[2], place[0]).clone()


def _extent(place: Geometry) -> int:
    offset, shape, strides = place
    return offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Return True if two tensors of one storage have elements in common."""
    places = (geometry(a), geometry(b))
    if a.dtype != b.dtype or 0 in (a.numel(), b.numel()):
        return a.numel() > 0 and b.numel() > 0
    used = torch.zeros(max(map(_extent, places)), dtype=torch.bool)
    used.as_strided(places[0][1], places[0][2], places[0][0]).fill_(True)
    return bool(used.as_strided(places[1][1], places[1][2], places[1][0]).any())
