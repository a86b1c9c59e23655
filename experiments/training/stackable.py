"""The reason why a cell cannot be trained in a stack (`why_serial`)."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from experiments.optim import UPDATES_IN_FLOAT32
from experiments.schema import Cell
from experiments.torch_optim import TorchOptimizer
from experiments.training.engines import stacked_step
from experiments.training.step import StepConfig, initial_state
from fanin.models.layers import dropout_masks


def why_serial(cell: Cell) -> str | None:
    """Return the reason why a cell cannot be trained in a stack; None if it can.

    Runs the step for two networks on torch's `meta` device, which allocates nothing. So everything
    in the network, optimizer, clip or loss that `torch.vmap` does not support is found.

    Examples
    --------
    >>> from experiments.config.catalog import config_loader
    >>> from experiments.schema import build_cell, coerce_cell
    >>> from experiments.config.catalog import ConfigCatalog
    >>> base = ConfigCatalog(config_loader(), "config").base
    >>> why_serial(build_cell(coerce_cell(base))) is None
    True
    """
    if cell.train.steps == 0:
        return "nothing is trained (train.steps=0)"
    if cell.train.dtype == "float16":
        return "train.dtype=float16 would round the learning rate differently in a stack"
    if cell.train.dtype == "bfloat16" and not isinstance(cell.optim, UPDATES_IN_FLOAT32):
        return (
            f"train.dtype=bfloat16 would round the numbers of {type(cell.optim).__name__} "
            "differently in a stack"
        )
    if isinstance(cell.optim, TorchOptimizer):
        return f"{cell.optim.function.__name__} updates its tensors in place, as all of torch.optim"
    if not is_dataclass(cell.optim):
        return f"{type(cell.optim).__name__} is not a dataclass, so its numbers can't be replaced"
    other = [f.name for f in fields(cell.optim) if not _is_number(getattr(cell.optim, f.name))]
    if other:
        return f"{type(cell.optim).__name__}.{other[0]} is not a number"
    try:
        with torch.device("meta"):
            model = cell.network().to(cell.train.torch_dtype)
        if buffers := [name for name, _ in model.named_buffers()]:
            return f"the network has a buffer ({buffers[0]})"
        _try_step(cell, model.train())
    except Exception as error:  # user code or vmap may raise anything
        return f"torch.vmap: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _try_step(cell: Cell, model: nn.Module) -> None:
    config = StepConfig(model, cell.objective, cell.optim, cell.clip, cell.train.loss_bound)
    batch_size = cell.train.batch_of(cell.data.n_train or cell.data.source.train_size)
    masks = dropout_masks(model, batch_size, torch.Generator(), cell.train.torch_dtype)
    labels = torch.float32 if cell.objective.n_classes is None else torch.int64
    numbers = [f.name for f in fields(cast(Any, cell.optim))]
    stacked_step(config)(
        tree_map(
            lambda tensor: _empty_pair(tuple(tensor.shape), tensor.dtype), initial_state(config)
        ),
        _empty_pair((batch_size, *cell.data.shape), cell.train.torch_dtype),
        _empty_pair((batch_size,), labels),
        _empty_pair((), torch.float64),
        {name: _empty_pair(tuple(mask.shape), mask.dtype) for name, mask in masks.items()},
        {name: _empty_pair((), torch.float64) for name in numbers},
    )


def _empty_pair(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty((2, *shape), dtype=dtype, device="meta")
