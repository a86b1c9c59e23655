"""Which tensor went bad first: the step that diverged is run again, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from experiments.training.step import Params, State, Task, loss_and_gradients
from fanin.probes.trace import forward_hooks, leaf_modules


@dataclass(frozen=True)
class Divergence:
    """Where a network diverged.

    `tensor` is the first bad one in the order in which a step makes them: `input`, the output of
    each layer (its name), `loss`, `grad of NAME` from the last layer back, then the updated
    parameter `NAME`. `reason` is `inf`, `nan` or `loss above bound`. A network that the last update
    spoilt diverges at the step after it, which is one more than there are.
    """

    step: int
    tensor: str
    reason: str


def diagnose(
    task: Task, state: State, x: Tensor, y: Tensor, lr: float | Tensor, masks: Params
) -> Divergence:
    """Name what went wrong in the step that this frozen state and batch led to."""
    step, params = int(state["failed_at"]), state["params"]
    bad = forward_fault(task, params, x, y, masks)
    if bad is None:
        _, gradients = loss_and_gradients(task, params, x, y, masks)
        updated, _ = task.optim.update(params, gradients, state["optimizer"], lr)
        backward = [(f"grad of {name}", g) for name, g in reversed(gradients.items())]
        bad = _first_bad([*backward, *updated.items()])
    return Divergence(step, *(bad or ("unknown", "not reproduced")))


@torch.no_grad()
def forward_fault(
    task: Task, params: Params, x: Tensor, y: Tensor, masks: Params
) -> tuple[str, str] | None:
    """The first bad tensor on the way to the loss, and the reason; None where all is well."""
    made: list[tuple[str, Tensor]] = [("input", x)]

    def keep(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        made.append((name, output))

    with forward_hooks(leaf_modules(task.model), keep):
        loss = task.objective.loss(functional_call(task.model, params | masks, (x,)), y)
    bad = _first_bad([*made, ("loss", loss)])
    if bad is None and bool(loss > task.loss_bound):
        return "loss", "loss above bound"
    return bad


def _first_bad(tensors: list[tuple[str, Tensor]]) -> tuple[str, str] | None:
    for name, tensor in tensors:
        if not bool(tensor.isfinite().all()):
            return name, "nan" if bool(tensor.isnan().any()) else "inf"
    return None
