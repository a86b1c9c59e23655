"""State of a model and of the random generators, to restore after a run."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def copied_buffers(model: nn.Module) -> Iterator[None]:
    """Replace the buffers of a model by copies in this context.

    To restore the values in place would break a backward pass that has saved the buffers.
    """
    saved = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    copies: dict[int, Tensor] = {}
    for buffers, originals in saved:
        for name, buffer in originals.items():
            if buffer is not None:
                buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
    try:
        yield
    finally:
        for buffers, originals in saved:
            buffers.clear()
            buffers.update(originals)


class ModelState:
    """Snapshot of the modules' attributes, hooks, modes, parameters and gradients.

    Attributes include tensors and containers in containers, but not the attributes of other objects
    than modules, or those of classes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._attributes: list[tuple[nn.Module, dict[str, Any]]] = []
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._tensors: dict[int, tuple[Tensor, int, Tensor, Tensor | None, bool]] = {}
        for module in model.modules():
            self._attributes.append((module, dict(vars(module))))
            self._add(list(vars(module).values()))

    def _add(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, Tensor) and id(value) not in self._tensors:
                content = value.detach().clone()
                grad = value.grad if value.is_leaf else None
                entry = (value, value._version, content, grad, value.requires_grad)
                self._tensors[id(value)] = entry
            elif isinstance(value, dict | list | set | deque) and id(value) not in self._containers:
                self._containers[id(value)] = (value, copy(value))
                self._add(list(value.values()) if isinstance(value, dict) else value)
            elif isinstance(value, tuple):
                self._add(value)

    def restore(self) -> list[Tensor]:
        """Undo all changes since the snapshot, also those of values in place.

        Returns
        -------
        list of Tensor
            Tensors that were changed through `.data`, which torch's version counters miss.
        """
        changed_data = []
        for module, attributes in self._attributes:
            vars(module).clear()
            vars(module).update(attributes)
        for container, content in self._containers.values():
            container.clear()
            if isinstance(container, list | deque):
                container.extend(content)
            else:
                container.update(content)
        for key, (tensor, version, content, grad, requires_grad) in self._tensors.items():
            is_same_version = tensor._version == version
            if not is_same_version or not _same(tensor, content):
                if is_same_version:
                    changed_data.append(tensor)
                with torch.no_grad():
                    tensor.copy_(content)
                self._tensors[key] = (tensor, tensor._version, content, grad, requires_grad)
            if tensor.is_leaf:
                if tensor.requires_grad != requires_grad:
                    tensor.requires_grad_(requires_grad)
                if tensor.grad is not grad:
                    tensor.grad = grad
        return changed_data


def _same(a: Tensor, b: Tensor) -> bool:
    a = a.detach()
    if a.shape != b.shape:
        return False
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())  # equal or both NaN


class RandomState:
    """Snapshot of the global generators of torch, numpy and Python."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state(legacy=False)  # noqa: NPY002
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore(self) -> None:
        """Set the generators to the snapshot."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)

    def torch_differs(self, other: RandomState) -> bool:
        """Return True if one of torch's generators drew numbers between two snapshots."""
        return not torch.equal(self._torch, other._torch) or any(
            not torch.equal(a, b) for a, b in zip(self._cuda, other._cuda, strict=True)
        )

    def python_differs(self, other: RandomState) -> bool:
        """Return True if Python's or numpy's generator drew numbers between two snapshots."""
        a, b = self._numpy["state"], other._numpy["state"]
        same = a["pos"] == b["pos"] and np.array_equal(a["key"], b["key"])
        return self._python != other._python or not same
