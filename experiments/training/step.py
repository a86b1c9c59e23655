"""The training step as a pure function of tensors.

A single network calls it directly; a stack of networks calls it under `torch.vmap`, where only
`torch.func` can differentiate. It does not branch on values and does not read tensors back to the
host. A step that diverges writes its number to the state and keeps the parameters, as do all later
steps; the loop checks this number regularly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from experiments.clip import Clip
from experiments.optim import Optimizer, update
from fanin.losses import Objective

Params = dict[str, Tensor]
NetworkState = dict[str, Any]  # params, optimizer (a tree of tensors), step, failed_at
Step = Callable[[NetworkState, Tensor, Tensor, float | Tensor, Params], tuple[NetworkState, Tensor]]
LossOf = Callable[[Params], Tensor]
Differentiate = Callable[[LossOf, Params], tuple[Params, Tensor]]
ALIVE = -1  # `failed_at` of a network that has not diverged


@dataclass(frozen=True)
class StepConfig:
    """The parts of a training step that are not tensors."""

    model: nn.Module
    objective: Objective
    optim: Optimizer
    clip: Clip
    loss_bound: float


def initial_state(config: StepConfig) -> NetworkState:
    """Return the state before the first step, on the model's device."""
    trained = [(name, p) for name, p in config.model.named_parameters() if p.requires_grad]
    params = {name: p.detach().clone() for name, p in trained}
    device = next(iter(params.values())).device
    return {
        "params": params,
        "optimizer": config.optim.init(params),
        "step": torch.tensor(0, device=device),
        "failed_at": torch.tensor(ALIVE, device=device),
    }


def by_autograd(loss_of: LossOf, params: Params) -> tuple[Params, Tensor]:
    """Return gradients and loss of a single network, by `torch.autograd`."""
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    with torch.enable_grad():
        loss = loss_of(leaves)
    # Like `torch.func`, return gradient 0 for parameters that the loss does not depend on.
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, gradients, strict=True)), loss.detach()


def by_torch_func(loss_of: LossOf, params: Params) -> tuple[Params, Tensor]:
    """Return gradients and loss by `torch.func` (up to twice as slow, but works under vmap)."""
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
    """Return the mean loss on a batch and its clipped gradients."""

    def loss_of(p: Params) -> Tensor:
        return config.objective.loss(functional_call(config.model, p | masks, (x,)), y)

    gradients, loss = differentiate(loss_of, params)
    return loss, config.clip.apply(gradients)


def make_step(config: StepConfig, differentiate: Differentiate = by_autograd) -> Step:
    """Return the step function of one cell: (state, x, y, lr, dropout masks) -> (state, loss).

    A step diverges if the loss is non-finite or above the bound, or if an updated parameter is
    non-finite. It then keeps the parameters and the optimizer's state and writes its number to
    `failed_at`. All later steps keep them too.
    """

    def step(
        state: NetworkState, x: Tensor, y: Tensor, lr: float | Tensor, masks: Params
    ) -> tuple[NetworkState, Tensor]:
        params = state["params"]
        loss, gradients = loss_and_gradients(config, params, x, y, masks, differentiate)
        updated, optimizer = update(config.optim, params, gradients, state["optimizer"], lr)
        ok = _all_finite(updated) & loss.isfinite() & (loss <= config.loss_bound)
        alive = ok & (state["failed_at"] == ALIVE)
        newly_failed = ~ok & (state["failed_at"] == ALIVE)
        return {
            "params": _where(alive, updated, params),
            "optimizer": _where(alive, optimizer, state["optimizer"]),
            "step": state["step"] + 1,
            "failed_at": torch.where(newly_failed, state["step"], state["failed_at"]),
        }, loss

    return step


def _all_finite(params: Params) -> Tensor:
    # `amax` propagates NaN. `isfinite` of whole tensors is ten times as slow.
    return torch.stack([p.abs().amax() for p in params.values()]).isfinite().all()


def _where(condition: Tensor, new: Any, old: Any) -> Any:
    if isinstance(new, dict):
        return {name: _where(condition, new[name], old[name]) for name in new}
    return torch.where(condition, new, old)
