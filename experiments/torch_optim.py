"""Adapter from `torch.optim` classes, which update tensors in place, to `Optimizer`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.optim import State, Tensors
from fanin.errors import ConfigError

LEFT_OUT = ("params", "foreach", "fused", "capturable", "differentiable")
"""Parameters of `torch.optim` classes that a config can't set: they don't change the result."""


@dataclass(frozen=True)
class TorchOptimizer:
    """Optimizer that calls a `torch.optim` class, for networks that train one by one.

    The state consists of the optimizer's tensors and numbers, so that checkpoints contain it.

    Parameters
    ----------
    function
        The class.
    lr
        Learning rate before the schedule.
    arguments
        Further arguments of the class.

    Examples
    --------
    >>> nadam, params = TorchOptimizer(torch.optim.SGD, 0.5, {}), {"w": torch.tensor([1.0])}
    >>> nadam.update(params, {"w": torch.tensor([1.0])}, nadam.init(params), 0.5)[0]
    {'w': tensor([0.5000])}
    """

    function: type[torch.optim.Optimizer]
    lr: float
    arguments: Mapping[str, Any]

    def init(self, params: Tensors) -> State:
        """Return a state with zeros in place of the optimizer's tensors and numbers.

        It is not used: the first update starts a new optimizer. A first update with gradients 0
        on copies shows which tensors the optimizer keeps.
        """
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        _, state = self._step(params, zeros, None, self.lr)
        return _zeros(state)

    def update(
        self, params: Tensors, grads: Tensors, state: State, lr: float | Tensor
    ) -> tuple[Tensors, State]:
        """Return the parameters and the state after one update at learning rate `lr`."""
        return self._step(params, grads, state if int(state["updates"]) else None, float(lr))

    def _step(
        self, params: Tensors, grads: Tensors, state: State | None, lr: float
    ) -> tuple[Tensors, State]:
        leaves = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
        optimizer = self.function(leaves.values(), lr=self.lr, **self.arguments)  # type: ignore[call-arg]
        (group,) = optimizer.param_groups
        if state is not None:
            group |= _unpack(state["group"])
            for name, leaf in leaves.items():
                optimizer.state[leaf] = _unpack(state["parameters"][name])
        group["lr"] = lr
        for name, leaf in leaves.items():
            leaf.grad = grads[name].detach()
        optimizer.step()
        device = next(iter(leaves.values())).device
        updates = torch.tensor(0, device=device) if state is None else state["updates"]
        numbers = {key: value for key, value in group.items() if key not in ("params", "lr")}
        return {name: leaf.detach() for name, leaf in leaves.items()}, {
            "updates": updates + 1,
            "group": _pack({key: v for key, v in numbers.items() if _is_number(v)}, device),
            "parameters": {n: _pack(optimizer.state[leaf], device) for n, leaf in leaves.items()},
        }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pack(values: Mapping[str, Any], device: torch.device) -> State:
    """Return tensors and numbers as nested dictionaries of tensors on one device."""
    packed: State = {"host": {}, "device": {}, "int": {}, "float": {}}
    for key, value in values.items():
        if isinstance(value, Tensor):
            place = "host" if value.device.type == "cpu" else "device"
            packed[place][key] = value.detach().to(device, copy=True)
        elif _is_number(value):
            kind, dtype = (
                ("int", torch.int64) if isinstance(value, int) else ("float", torch.double)
            )
            packed[kind][key] = torch.tensor(value, dtype=dtype, device=device)
        elif value is not None:
            raise ConfigError(
                f"optim: the optimizer's state contains {key} of type {type(value).__name__}; only "
                "tensors and numbers can be saved in checkpoints"
            )
    return packed


def _unpack(packed: State) -> dict[str, Any]:
    """Return copies of the tensors and numbers, each where the optimizer kept it."""
    return {
        **{key: tensor.to("cpu", copy=True) for key, tensor in packed["host"].items()},
        **{key: tensor.clone() for key, tensor in packed["device"].items()},
        **{key: int(tensor) for key, tensor in packed["int"].items()},
        **{key: float(tensor) for key, tensor in packed["float"].items()},
    }


def _zeros(tree: State) -> State:
    return {k: _zeros(v) if isinstance(v, dict) else torch.zeros_like(v) for k, v in tree.items()}
