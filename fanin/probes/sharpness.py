"""The largest eigenvalue of the loss's Hessian, by Lanczos iteration."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp

Loss = Callable[[Tensor, Tensor], Tensor]
Params = dict[str, Tensor]
Vector = Float64[np.ndarray, " parameter"]
MAX_RESTARTS = 50  # of about 20 products each


def sharpness(
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    *,
    of: Collection[str] | None = None,
    tolerance: float = 0.01,
) -> float:
    """Largest eigenvalue of the Hessian of the mean loss on a batch.

    The largest, not the largest in absolute value: it is negative where all curvature is.

    Implicitly restarted Lanczos (ARPACK) on Hessian-vector products, from a fixed random
    direction; some 20 products, each about two backward passes. Power iteration would stop on a
    plateau far from the eigenvalue. Half precision is too coarse for curvature: such weights are
    measured in float32.

    Parameters
    ----------
    model, loss, x, y
        The mean of `loss(model(x), y)`, as a function of the model's parameters.
    of
        Names of the parameters whose block of the Hessian is meant; the others stand still.
        None: all of them.
    tolerance
        Relative error of the eigenvalue, at most.

    Returns
    -------
    float
        NaN where the loss or its derivatives are not finite, or no eigenvalue was found.
    """
    # Here, because this import takes a fifth of a second, and few probes ask for sharpness.
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    dtype = torch.promote_types(x.dtype, torch.float32)
    every = {name: p.detach().to(dtype) for name, p in model.named_parameters()}
    params = {name: p for name, p in every.items() if of is None or name in of}
    fixed = {n: b.to(dtype) if b.is_floating_point() else b for n, b in model.named_buffers()}
    fixed |= {name: p for name, p in every.items() if name not in params}
    x = x.to(dtype)

    def gradient(p: Params) -> Params:
        return grad(lambda q: loss(functional_call(model, q | fixed, (x,)), y))(p)

    # A Hessian is symmetric, so its product from the left serves, and needs one forward pass only.
    times_hessian = vjp(gradient, params)[1]

    def product(vector: Vector) -> Vector:
        (curves,) = times_hessian(_like(params, vector))
        curved = _flat(curves)
        if not np.isfinite(curved).all():
            raise FloatingPointError
        return curved

    size = sum(p.numel() for p in params.values())
    start = np.random.default_rng(0).standard_normal(size)
    hessian = LinearOperator((size, size), matvec=product, dtype=np.float64)
    try:
        if not product(start).any():
            return 0.0  # as for all-zero weights: nothing to iterate on
        found = eigsh(
            hessian,
            k=1,
            which="LA",
            v0=start,
            tol=tolerance,
            maxiter=MAX_RESTARTS,
            return_eigenvectors=False,
        )
    except (FloatingPointError, ArpackNoConvergence):
        return float("nan")
    return float(found[0])


def _flat(params: Params) -> Vector:
    joined: Vector = (
        torch.cat([p.detach().flatten() for p in params.values()]).cpu().double().numpy()
    )
    return joined


def _like(params: Params, vector: Vector) -> Params:
    parts = torch.from_numpy(vector.copy()).split([p.numel() for p in params.values()])
    return {
        name: part.to(p).view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)
    }
