"""One training step as a pure function of tensors.

A network alone runs it as it is; a stack of networks runs the same under `torch.vmap`, where only
`torch.func` can differentiate. It has no branch on a tensor's value and reads nothing back: a step
that diverges is marked in the state, which is then frozen, and the loop reads the mark now and
then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from experiments.clip import Clip
from experiments.optim import Optimizer
from fanin.losses import Objective

Params = dict[str, Tensor]
NetworkState = dict[str, Any]  # params, optimizer (a tree of tensors), step, failed_at
Step = Callable[[NetworkState, Tensor, Tensor, float | Tensor, Params], tuple[NetworkState, Tensor]]
LossOf = Callable[[Params], Tensor]
Differentiate = Callable[[LossOf, Params], tuple[Params, Tensor]]
ALIVE = -1  # `failed_at` of a network that has not diverged


@dataclass(frozen=True)
class StepConfig:
    """Everything that one step depends on besides tensors."""

    model: nn.Module
    objective: Objective
    optim: Optimizer
    clip: Clip
    loss_bound: float


def initial_state(config: StepConfig) -> NetworkState:
    """Return the state before the first step, on the model's device."""
    params = {name: p.detach().clone() for name, p in config.model.named_parameters()}
    device = next(iter(params.values())).device
    return {
        "params": params,
        "optimizer": config.optim.init(params),
        "step": torch.tensor(0, device=device),
        "failed_at": torch.tensor(ALIVE, device=device),
    }


def by_autograd(loss_of: LossOf, params: Params) -> tuple[Params, Tensor]:
    """Return gradients and loss of a single network."""
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    with torch.enable_grad():
        loss = loss_of(leaves)
    # A parameter that the loss does not depend on has gradient 0, as under `torch.func`.
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, gradients, strict=True)), loss.detach()


def by_transform(loss_of: LossOf, params: Params) -> tuple[Params, Tensor]:
    """Return the same under `torch.vmap`; it takes up to twice the time of a small network."""
    gradients, loss = grad_and_value(loss_of)(params)
    return gradients, loss


def loss_and_gradients(
    config: StepConfig,
    params: Params,
    x: Tensor,
    y: Tensor,
    masks: Params,
    differentiate: Differentiate = by_autograd,
) -> tuple[Tensor, Params]:
    """Return the mean loss on a batch, and its gradients after the cell's clipping."""

    def loss_of(p: Params) -> Tensor:
        return config.objective.loss(functional_call(config.model, p | masks, (x,)), y)

    gradients, loss = differentiate(loss_of, params)
    return loss, config.clip.apply(gradients)


def make_step(config: StepConfig, differentiate: Differentiate = by_autograd) -> Step:
    """Return the step of one cell: (state, x, y, lr, dropout masks) -> (state, loss).

    A step that diverges (loss not finite or above the bound, or a parameter not finite after the
    update) leaves parameters and optimizer as they were before it and writes its number into
    `failed_at`; every later step leaves them too.
    """

    def step(
        state: NetworkState, x: Tensor, y: Tensor, lr: float | Tensor, masks: Params
    ) -> tuple[NetworkState, Tensor]:
        params = state["params"]
        loss, gradients = loss_and_gradients(config, params, x, y, masks, differentiate)
        updated, optimizer = config.optim.update(params, gradients, state["optimizer"], lr)
        good = _all_finite(updated) & loss.isfinite() & (loss <= config.loss_bound)
        alive = good & (state["failed_at"] == ALIVE)
        newly_failed = ~good & (state["failed_at"] == ALIVE)
        return {
            "params": _where(alive, updated, params),
            "optimizer": _where(alive, optimizer, state["optimizer"]),
            "step": state["step"] + 1,
            "failed_at": torch.where(newly_failed, state["step"], state["failed_at"]),
        }, loss

    return step


def _all_finite(params: Params) -> Tensor:
    # NaN counts as the largest there is. `isfinite` of whole tensors takes ten times as long.
    return torch.stack([p.abs().amax() for p in params.values()]).isfinite().all()


def _where(condition: Tensor, new: Any, old: Any) -> Any:
    if isinstance(new, dict):
        return {name: _where(condition, new[name], old[name]) for name in new}
    return torch.where(condition, new, old)
