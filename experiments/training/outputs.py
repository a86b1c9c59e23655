"""The sizes of a network: what its layers put out, and how many parameters it has."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from experiments.schema import Cell
from fanin.probes.trace import forward_hooks, leaf_modules


def layer_outputs(cell: Cell, batch_size: int) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """Each layer without layers of its own, and the shape that it puts out for a batch.

    Nothing is allocated for it (torch's `meta` device).
    """
    found: list[tuple[nn.Module, tuple[int, ...]]] = []

    def note(_name: str, layer: nn.Module, _inputs: object, output: object) -> None:
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        found.extend((layer, tuple(tensor.shape)) for tensor in tensors)

    with torch.device("meta"), torch.no_grad():
        model = _weightless(cell).eval()
        with forward_hooks(leaf_modules(model), note):
            model(torch.empty(batch_size, *cell.data.shape, dtype=cell.train.torch_dtype))
    return found


def parameter_count(cell: Cell) -> int:
    """The number of a network's parameters."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _weightless(cell).parameters())


def _weightless(cell: Cell) -> nn.Module:
    return cell.network().to(cell.train.torch_dtype)
