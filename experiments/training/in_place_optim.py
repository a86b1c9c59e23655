"""Optimizers that update parameters in place: torch's fused kernels where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from experiments.optim import Adam, AdamW, Optimizer, Sgd, State, Tensors, update

FUSED_DTYPES = (torch.float32, torch.float64)  # half types: the kernels round less than `optim.py`


class InPlaceOptimizer(Protocol):
    """Protocol of an optimizer that updates the parameters it was made for."""

    def update(self, grads: Sequence[Tensor], lr: float) -> None:
        """Update the parameters and the optimizer's tensors in place."""

    def tensors(self) -> list[Tensor]:
        """Return all tensors that updates change, except the parameters."""

    def state(self, n_updates: int) -> State:
        """Return the state of the functional optimizer after this number of updates."""


def in_place_optimizer(
    optim: Optimizer, params: Tensors, state: State, n_updates: int
) -> InPlaceOptimizer:
    """Return an in-place optimizer that starts from a state of the functional optimizer.

    Parameters
    ----------
    optim
        The functional optimizer.
    params
        The parameters to update.
    state
        The state after `n_updates` updates; its tensors are copied.
    """
    is_fused = all(parameter.dtype in FUSED_DTYPES for parameter in params.values())
    if is_fused and type(optim) is Sgd:
        return _FusedSgd(optim, params, _copy_state(state, params))
    if is_fused and isinstance(optim, Adam | AdamW) and type(optim) in (Adam, AdamW):
        return _FusedAdam(optim, params, _copy_state(state, params), n_updates)
    return _Functional(optim, params, tree_map(torch.clone, state))


class _FusedSgd:
    def __init__(self, optim: Sgd, params: Tensors, state: State) -> None:
        self._params, self._state = list(params.values()), state
        self._velocity = list(state["velocity"].values()) if optim.momentum else []
        self._numbers: dict[str, Any] = {
            "momentum": optim.momentum,
            "weight_decay": optim.weight_decay,
        }

    def update(self, grads: Sequence[Tensor], lr: float) -> None:
        torch._fused_sgd_(
            self._params,
            _in_formats(self._params, grads),
            self._velocity,
            lr=lr,
            **self._numbers,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )

    def tensors(self) -> list[Tensor]:
        return self._velocity

    def state(self, n_updates: int) -> State:
        return self._state


class _FusedAdam:
    def __init__(self, optim: Adam | AdamW, params: Tensors, state: State, n_updates: int) -> None:
        self._params, self._state = list(params.values()), state
        self._mean, self._square = (list(state[name].values()) for name in ("mean", "square"))
        self._n_updates = [torch.tensor(float(n_updates)) for _ in self._params]
        self._update = torch._fused_adamw_ if isinstance(optim, AdamW) else torch._fused_adam_
        self._decays = {"beta1": optim.beta1, "beta2": optim.beta2}
        self._numbers: dict[str, Any] = {
            "weight_decay": optim.weight_decay,
            "eps": optim.eps,
            **self._decays,
        }

    def update(self, grads: Sequence[Tensor], lr: float) -> None:
        torch._foreach_add_(self._n_updates, 1.0)
        self._update(
            self._params,
            _in_formats(self._params, grads),
            self._mean,
            self._square,
            [],
            self._n_updates,
            lr=lr,
            **self._numbers,
            amsgrad=False,
            maximize=False,
        )

    def tensors(self) -> list[Tensor]:
        return [*self._mean, *self._square, *self._n_updates]

    def state(self, n_updates: int) -> State:
        return self._state | {
            name: torch.tensor(1 - decay**n_updates, dtype=torch.float64)
            for name, decay in zip(
                ("mean_share", "square_share"), self._decays.values(), strict=True
            )
        }


def _copy_state(state: State, params: Tensors) -> State:
    """Copy a state, with each parameter's tensors in the parameter's memory format."""
    return {
        key: {name: _like(params[name], tensor) for name, tensor in value.items()}
        if isinstance(value, dict)
        else value.clone()
        for key, value in state.items()
    }


def _in_formats(params: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
    # The fused kernels ignore strides: a gradient in another memory format than its parameter would
    # give wrong results.
    return [
        grad if grad.stride() == parameter.stride() else _like(parameter, grad)
        for parameter, grad in zip(params, grads, strict=True)
    ]


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Copy a tensor to the memory format of a parameter."""
    return torch.empty_like(parameter).copy_(tensor)


class _Functional:
    def __init__(self, optim: Optimizer, params: Tensors, state: State) -> None:
        self._optim, self._params, self._state = optim, params, state

    def update(self, grads: Sequence[Tensor], lr: float) -> None:
        by_name = dict(zip(self._params, grads, strict=True))
        updated, state = update(self._optim, self._params, by_name, self._state, lr)
        for name, parameter in self._params.items():
            parameter.copy_(updated[name])
        tree_map(lambda old, new: old.copy_(new), self._state, state)

    def tensors(self) -> list[Tensor]:
        return tree_leaves(self._state)

    def state(self, n_updates: int) -> State:
        return self._state
