"""Which tensor went bad first: the step that diverged is run again, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from experiments.training.step import Params, State, Task, loss_and_gradients


@dataclass(frozen=True)
class Divergence:
    """Where a network diverged.

    `tensor` is the first bad one in the order in which a step makes them: `input`, the output of
    each layer (its name), `loss`, `grad of NAME` from the last layer back, then the updated
    parameter `NAME`. `reason` is `inf`, `nan` or `loss above bound`.
    """

    step: int
    tensor: str
    reason: str


def diagnose(
    task: Task, state: State, x: Tensor, y: Tensor, lr: float | Tensor, masks: Params
) -> Divergence:
    """Name what went wrong in the step that this frozen state and batch led to."""
    step, params = int(state["failed_at"]), state["params"]
    made: list[tuple[str, Tensor]] = [("input", x)]
    handles = [
        module.register_forward_hook(partial(_keep, made, name))
        for name, module in task.model.named_modules()
        if not any(module.children())
    ]
    try:
        with torch.no_grad():
            functional_call(task.model, params | masks, (x,))
    finally:
        for handle in handles:
            handle.remove()
    loss, gradients = loss_and_gradients(task, params, x, y, masks)
    made.append(("loss", loss))
    bad = _first_bad(made)
    if bad is None and bool(loss > task.loss_bound):
        return Divergence(step, "loss", "loss above bound")
    if bad is None:
        updated, _ = task.optim.update(params, gradients, state["optimizer"], lr)
        backward = [(f"grad of {name}", g) for name, g in reversed(gradients.items())]
        bad = _first_bad([*backward, *updated.items()])
    name, kind = bad or ("unknown", "not reproduced")
    return Divergence(step, name, kind)


def _keep(
    made: list[tuple[str, Tensor]], name: str, module: nn.Module, inputs: object, output: Tensor
) -> None:
    made.append((name, output))


def _first_bad(tensors: list[tuple[str, Tensor]]) -> tuple[str, str] | None:
    for name, tensor in tensors:
        if not bool(tensor.isfinite().all()):
            return name, "nan" if bool(tensor.isnan().any()) else "inf"
    return None
