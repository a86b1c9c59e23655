"""Optimizers as pure functions of (parameters, gradients, state), equal to those of `torch.optim`.

They change nothing in place and don't branch on values, so they work under `torch.func.vmap`.
Within the mapped function, a numeric option may be a tensor, so that it differs between the cells
of a stack: `dataclasses.replace(optimizer, momentum=momentum)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor
from torch.utils._pytree import tree_map

Tensors = dict[str, Tensor]
State = dict[str, Any]

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]


@runtime_checkable
class Optimizer(Protocol):
    """Protocol of an optimizer (an option of `conf/optim/`)."""

    @property
    def lr(self) -> float:
        """Learning rate before the schedule."""

    def init(self, params: Tensors) -> State:
        """Return the state before the first update: nested dictionaries of tensors."""

    def update(
        self, params: Tensors, grads: Tensors, state: State, lr: float | Tensor
    ) -> tuple[Tensors, State]:
        """Return the parameters and the state after one update at learning rate `lr`."""


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with heavy-ball momentum, equal to `torch.optim.SGD`.

    Parameters
    ----------
    lr
        Learning rate.
    momentum
        Factor of the last step's velocity.
    weight_decay
        L2 penalty, added to the gradient.

    Examples
    --------
    >>> sgd, params = Sgd(lr=0.5), {"w": torch.tensor([1.0])}
    >>> sgd.update(params, {"w": torch.tensor([1.0])}, sgd.init(params), sgd.lr)[0]
    {'w': tensor([0.5000])}
    """

    lr: NonNegative = 0.1
    momentum: Decay = 0.0
    weight_decay: NonNegative = 0.0

    def init(self, params: Tensors) -> State:
        """Return a state with velocity 0."""
        return {"velocity": _zeros_like(params)}

    def update(
        self, params: Tensors, grads: Tensors, state: State, lr: float | Tensor
    ) -> tuple[Tensors, State]:
        """Return the parameters and the state after one update at learning rate `lr`."""
        grads = _with_l2(params, grads, self.weight_decay)
        if _is_zero(self.momentum):  # the velocity is not used
            return _descend(params, grads, lr), state
        velocity = {n: self.momentum * state["velocity"][n] + g for n, g in grads.items()}
        return _descend(params, velocity, lr), {"velocity": velocity}


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1), equal to `torch.optim.Adam`.

    Parameters
    ----------
    lr
        Learning rate.
    beta1, beta2
        Decay of the running means of the gradient and of its square.
    eps
        Added to the denominator. float16 rounds the default to 0 (smallest positive number: 6e-8).
    weight_decay
        L2 penalty, added to the gradient.
    """

    lr: NonNegative = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0

    def init(self, params: Tensors) -> State:
        """Return a state with all means 0."""
        return _adam_init(params)

    def update(
        self, params: Tensors, grads: Tensors, state: State, lr: float | Tensor
    ) -> tuple[Tensors, State]:
        """Return the parameters and the state after one update at learning rate `lr`."""
        grads = _with_l2(params, grads, self.weight_decay)
        direction, state = _adam_direction(self, grads, state)
        return _descend(params, direction, lr), state


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), equal to `torch.optim.AdamW`.

    Parameters
    ----------
    lr, beta1, beta2, eps
        As in `Adam`.
    weight_decay
        Each update first multiplies the parameters by 1 - lr * weight_decay.
    """

    lr: NonNegative = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 1e-2

    def init(self, params: Tensors) -> State:
        """Return a state with all means 0."""
        return _adam_init(params)

    def update(
        self, params: Tensors, grads: Tensors, state: State, lr: float | Tensor
    ) -> tuple[Tensors, State]:
        """Return the parameters and the state after one update at learning rate `lr`."""
        direction, state = _adam_direction(self, grads, state)
        decay = 1 - lr * self.weight_decay
        return _descend({n: decay * p for n, p in params.items()}, direction, lr), state


UPDATES_IN_FLOAT32 = (Sgd, Adam, AdamW)
"""Optimizers whose updates of bfloat16 parameters are computed in float32."""


def update(
    optim: Optimizer, params: Tensors, grads: Tensors, state: State, lr: float | Tensor
) -> tuple[Tensors, State]:
    """Return the parameters and the state after one update; bfloat16 is rounded only at its end.

    Otherwise the numbers of the optimizer, which are tensors in a stack, would be rounded to
    bfloat16 there, but not in serial training.
    """
    dtypes = {name: p.dtype for name, p in params.items()}
    if type(optim) not in UPDATES_IN_FLOAT32 or torch.bfloat16 not in dtypes.values():
        return optim.update(params, grads, state, lr)
    wide_params, wide_grads, wide_state = tree_map(_widened, (params, grads, state))
    updated, new_state = optim.update(wide_params, wide_grads, wide_state, lr)
    rounded_state: State = tree_map(lambda new, old: new.to(old.dtype), new_state, state)
    return {name: p.to(dtypes[name]) for name, p in updated.items()}, rounded_state


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _adam_init(params: Tensors) -> State:
    device = next(iter(params.values())).device
    # float64, as precise as torch's bias corrections, which are Python numbers.
    zero = torch.zeros((), dtype=torch.float64, device=device)
    means = {"mean": _zeros_like(params), "square": _zeros_like(params)}
    return means | {"mean_share": zero, "square_share": zero}


def _adam_direction(adam: Adam | AdamW, grads: Tensors, state: State) -> tuple[Tensors, State]:
    mean = {n: m + (1 - adam.beta1) * (grads[n] - m) for n, m in state["mean"].items()}
    square = {
        n: adam.beta2 * s + (1 - adam.beta2) * grads[n].square() for n, s in state["square"].items()
    }
    # 1 - beta ** step, computed as the running mean of ones. The last bit of a power would depend
    # on the number of stacked cells: vectors use another formula than scalars.
    mean_share = adam.beta1 * state["mean_share"] + (1 - adam.beta1)
    square_share = adam.beta2 * state["square_share"] + (1 - adam.beta2)
    root_share = square_share.sqrt()
    direction = {
        n: (m / mean_share) / (square[n].sqrt() / root_share + adam.eps) for n, m in mean.items()
    }
    shares = {"mean_share": mean_share, "square_share": square_share}
    return direction, {"mean": mean, "square": square} | shares


def _descend(params: Tensors, direction: Tensors, lr: float | Tensor) -> Tensors:
    if isinstance(lr, Tensor):
        return {n: p - lr * direction[n] for n, p in params.items()}
    return {n: torch.sub(p, direction[n], alpha=lr) for n, p in params.items()}


def _is_zero(number: float | Tensor) -> bool:
    return not isinstance(number, Tensor) and number == 0


def _with_l2(params: Tensors, grads: Tensors, weight_decay: float) -> Tensors:
    if _is_zero(weight_decay):
        return grads
    return {name: grad + weight_decay * params[name] for name, grad in grads.items()}


def _zeros_like(params: Tensors) -> Tensors:
    return {name: torch.zeros_like(p) for name, p in params.items()}
