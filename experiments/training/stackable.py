"""What can be trained as one program, and what can't, and why."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from experiments.schema import Cell
from experiments.training.step import Task, start
from experiments.training.two_ways import stacked_step
from fanin.models.dropout import dropout_masks

WIDE = ("float32", "float64")


def why_serial(cell: Cell) -> str | None:
    """Say why a cell can't be trained in a stack; None where it can.

    The step is tried on two networks without storage (torch's `meta` device), so what the
    network, optimizer, clip or loss does that `torch.vmap` can't follow shows here, at no cost.

    Examples
    --------
    >>> from experiments.config.loader import config_loader
    >>> from experiments.schema import build_cell, coerce_cell
    >>> from experiments.config.catalog import ConfigCatalog
    >>> base = ConfigCatalog(config_loader(), "config").base
    >>> why_serial(build_cell(coerce_cell(base))) is None
    True
    """
    if cell.train.steps == 0:
        return "nothing is trained (train.steps=0)"
    if cell.train.dtype not in WIDE:
        return f"train.dtype={cell.train.dtype} would round each cell's learning rate differently"
    if not is_dataclass(cell.optim):
        return f"{type(cell.optim).__name__} is no dataclass, so its numbers can't be exchanged"
    odd = [f.name for f in fields(cell.optim) if not _is_number(getattr(cell.optim, f.name))]
    if odd:
        return f"{type(cell.optim).__name__}.{odd[0]} is no number"
    with torch.device("meta"):
        model = cell.network().to(cell.train.torch_dtype)
    if state := [name for name, _ in model.named_buffers()]:
        return f"the network keeps {state[0]} beside its parameters"
    try:
        _try_step(cell, model.train())
    except Exception as error:  # whatever the user's own parts, or vmap, have to say
        return f"torch.vmap: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _try_step(cell: Cell, model: nn.Module) -> None:
    task = Task(model, cell.objective, cell.optim, cell.clip, cell.train.loss_bound)
    size = cell.train.batch_of(cell.data.n_train or cell.data.source.train_size)
    masks = dropout_masks(model, size, torch.Generator(), cell.train.torch_dtype)
    labels = torch.float32 if cell.objective.n_classes is None else torch.int64
    numbers = [f.name for f in fields(cast(Any, cell.optim))]
    stacked_step(task)(
        tree_map(lambda tensor: _two(tuple(tensor.shape), tensor.dtype), start(task)),
        _two((size, *cell.data.shape), cell.train.torch_dtype),
        _two((size,), labels),
        _two((), torch.float64),
        {name: _two(tuple(mask.shape), mask.dtype) for name, mask in masks.items()},
        {name: _two((), torch.float64) for name in numbers},
    )


def _two(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty((2, *shape), dtype=dtype, device="meta")
