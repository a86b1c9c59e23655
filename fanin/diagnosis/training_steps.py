"""Check of the learning rate: a few steps on copies of the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import deepcopy
from math import isfinite

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fanin.diagnosis.finding import Finding

STEPS = 10
# Factors on the learning rate for comparison: of a rate that is too large, and too small.
SMALLER = (0.1, 0.01, 0.001)
LARGER = (100.0, 1e4)
MIN_DECREASE = 1e-4  # relative decrease of the loss in `STEPS` steps; less is no progress
CLEAR_DECREASE = 0.05
LANCZOS_TOLERANCE = 0.01

LossOf = Callable[[nn.Module], Tensor]


def check_learning_rate(
    model: nn.Module, optimizer: Optimizer | float, loss_of: LossOf
) -> Iterator[Finding]:
    """Yield a finding if the learning rate is far too large or too small for this batch.

    The optimizer takes a few steps on copies of the model, always on the same batch. A rate is too
    large if the loss is higher after them than before, but falls with a smaller rate. It is too
    small if the loss stays the same, but falls with a much larger rate.

    Parameters
    ----------
    model
        The model. It is not changed.
    optimizer
        The user's optimizer, for this model's parameters, or the learning rate of SGD.
    loss_of
        Function of a model that returns the loss on the batch.
    """
    optimizer = _to_optimizer(model, optimizer)
    rate = _rate(optimizer)
    losses = _train(model, optimizer, loss_of, 1.0)
    first, last = losses[0], losses[-1]
    if not isfinite(first) or first <= 0:
        return
    name = type(optimizer).__name__
    if not isfinite(last) or last > first:
        for factor in SMALLER:
            smaller = _train(model, optimizer, loss_of, factor)[-1]
            if isfinite(smaller) and smaller < first:
                yield _too_large(model, loss_of, optimizer, factor, losses, smaller)
                return
    elif last > first * (1 - MIN_DECREASE):
        for factor in LARGER:
            larger = _train(model, optimizer, loss_of, factor)[-1]
            if isfinite(larger) and larger < first * (1 - CLEAR_DECREASE):
                yield Finding(
                    "learning_rate",
                    f"the learning rate {rate:g} of {name} is too small: the loss stays at"
                    f" {first:.4g} in {STEPS} steps on this batch, and falls to {larger:.4g} with"
                    f" {rate * factor:.2g}.",
                    "optimizer",
                    {"learning rate": rate, "loss": first, f"loss after {STEPS} steps": last},
                    _new_rate(optimizer, factor),
                )
                return


def needs_closure(optimizer: Optimizer | float | None) -> bool:
    """Return True for optimizers that evaluate the loss several times per step, as LBFGS."""
    if not isinstance(optimizer, Optimizer):
        return False
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def relative_steps(
    model: nn.Module, optimizer: Optimizer | float, loss_of: LossOf
) -> dict[str, float]:
    """Return the change of each weight in one step, divided by the weight's norm."""
    model, optimizer = deepcopy((model, _to_optimizer(model, optimizer)))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.ndim > 1}
    with torch.enable_grad():
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    after = dict(model.named_parameters())
    return {
        name: float((after[name].detach() - weight).norm() / weight.norm())
        for name, weight in before.items()
        if weight.any()
    }


def _to_optimizer(model: nn.Module, optimizer: Optimizer | float) -> Optimizer:
    if isinstance(optimizer, Optimizer):
        return optimizer
    return torch.optim.SGD(model.parameters(), lr=float(optimizer))


def _too_large(
    model: nn.Module,
    loss_of: LossOf,
    optimizer: Optimizer,
    factor: float,
    losses: list[float],
    smaller: float,
) -> Finding:
    name, rate = type(optimizer).__name__, _rate(optimizer)
    first, last = losses[0], losses[-1]
    evidence = {
        "learning rate": rate,
        "loss": first,
        f"loss after {STEPS} steps": last,
        f"loss with {rate * factor:.2g}": smaller,
    }
    curvature = _sharpness(model, loss_of)
    if curvature is not None and curvature > 0:
        evidence["2 / sharpness"] = 2 / curvature
    return Finding(
        "learning_rate",
        f"the learning rate {rate:g} of {name} is too large: in {STEPS} steps on this batch it"
        f" changes the loss from {first:.4g} to {last:.4g}. With {rate * factor:.2g} the loss falls"
        f" to {smaller:.4g}.",
        "optimizer",
        evidence,
        _new_rate(optimizer, factor),
    )


def _rate(optimizer: Optimizer) -> float:
    return max(float(group["lr"]) for group in optimizer.param_groups)


def _new_rate(optimizer: Optimizer, factor: float) -> str:
    """Return code that multiplies the learning rates."""
    rates = {float(group["lr"]) for group in optimizer.param_groups}
    new = f"*= {factor:g}" if len(rates) > 1 else f"= {_rate(optimizer) * factor:.2g}"
    return f'for group in optimizer.param_groups: group["lr"] {new}'


def _train(model: nn.Module, optimizer: Optimizer, loss_of: LossOf, factor: float) -> list[float]:
    """Return the loss before each step and after the last, in the model's current mode."""
    # A joint copy, so that the copied optimizer holds the parameters of the copied model.
    model, optimizer = deepcopy((model, optimizer))
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * factor
    losses = []
    with torch.enable_grad():
        for _ in range(STEPS):
            torch.manual_seed(0)  # the same dropout masks for every rate
            optimizer.zero_grad()
            loss = loss_of(model)
            losses.append(float(loss.detach()))
            if not isfinite(losses[-1]):
                return losses
            loss.backward()
            optimizer.step()
        torch.manual_seed(0)
        losses.append(float(loss_of(model).detach()))
    return losses


def _sharpness(model: nn.Module, loss_of: LossOf) -> float | None:
    """Return the largest Hessian eigenvalue of the loss; None if it cannot be computed."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh  # loads slowly

    parameters = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)

    def product(vector: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(vector.copy()).split([p.numel() for p in parameters])
        direction = [part.to(p).view_as(p) for part, p in zip(parts, parameters, strict=True)]
        products = torch.autograd.grad(
            gradients, parameters, direction, retain_graph=True, materialize_grads=True
        )
        return torch.cat([v.flatten() for v in products]).double().cpu().numpy()

    try:
        with torch.enable_grad():
            torch.manual_seed(0)
            gradients = torch.autograd.grad(
                loss_of(model), parameters, create_graph=True, materialize_grads=True
            )
            start = np.random.default_rng(0).standard_normal(size)
            hessian = LinearOperator((size, size), matvec=product, dtype=np.float64)
            (value,) = eigsh(
                hessian,
                k=1,
                which="LA",
                v0=start,
                tol=LANCZOS_TOLERANCE,
                maxiter=50,
                return_eigenvectors=False,
            )
    except (RuntimeError, ArpackNoConvergence, FloatingPointError):
        return None  # no second derivative, as in recurrent layers of cuDNN
    return float(value)
