"""The largest eigenvalue of the loss's Hessian, by power iteration."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

Loss = Callable[[Tensor, Tensor], Tensor]
Params = dict[str, Tensor]


def sharpness(
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    *,
    iterations: int = 40,
    tolerance: float = 0.01,
) -> float:
    """Largest Hessian eigenvalue (in absolute value) of the mean loss on a fixed batch.

    Power iteration on Hessian-vector products from the gradient's direction, until the Rayleigh
    quotient changes by less than `tolerance` (relative); about four backward passes an iteration.
    Non-finite where the loss or its derivatives are.
    """
    params = {name: p.detach() for name, p in model.named_parameters()}

    def gradient(p: Params) -> Params:
        return grad(lambda q: loss(functional_call(model, q, (x,)), y))(p)

    direction = _unit(gradient(params))
    eigenvalue = float("nan")
    for _ in range(iterations):
        product = jvp(gradient, (params,), (direction,))[1]
        previous, eigenvalue = eigenvalue, float(_dot(direction, product))
        if abs(eigenvalue - previous) <= tolerance * abs(eigenvalue):
            break
        direction = _unit(product)
    return eigenvalue


def _dot(a: Params, b: Params) -> Tensor:
    return torch.stack([(a[name].double() * b[name].double()).sum() for name in a]).sum()


def _unit(vector: Params) -> Params:
    norm = _dot(vector, vector).sqrt()
    # A zero gradient (all-zero weights) has no direction: keep it, and the quotient is 0.
    scale = torch.where(norm > 0, norm, torch.ones_like(norm))
    return {name: (v.double() / scale).to(v.dtype) for name, v in vector.items()}
