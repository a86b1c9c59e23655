"""Sharpness: the largest eigenvalue of the loss's Hessian, by Lanczos iteration."""

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
MAX_RESTARTS = 50  # each takes about 20 Hessian-vector products


def sharpness(
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    *,
    parameters: Collection[str] | None = None,
    tolerance: float = 0.01,
) -> float:
    """Return the largest eigenvalue of the Hessian of the mean loss on a batch.

    It can be negative, because it is the largest eigenvalue and not the largest in absolute value.

    The method is implicitly restarted Lanczos (ARPACK) from a fixed random start vector. It needs
    about 20 Hessian-vector products, each as expensive as two backward passes. (Power iteration
    would stop on a plateau far from the eigenvalue.) Half-precision weights are converted to
    float32, because half precision is too coarse for curvature.

    Parameters
    ----------
    model, loss, x, y
        The Hessian is that of `loss(model(x), y)` as a function of the model's parameters.
    parameters
        Names of the parameters with respect to which the Hessian is computed; the others are
        constant. None uses all.
    tolerance
        Largest relative error of the eigenvalue.

    Returns
    -------
    float
        The eigenvalue; NaN if the loss or its derivatives are not finite, or the iteration does not
        converge.
    """
    # Imported here because it takes a fifth of a second and few probes need it.
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    dtype = torch.promote_types(x.dtype, torch.float32)
    named = {name: p.detach().to(dtype) for name, p in model.named_parameters()}
    params = {name: p for name, p in named.items() if parameters is None or name in parameters}
    fixed = {n: b.to(dtype) if b.is_floating_point() else b for n, b in model.named_buffers()}
    fixed |= {name: p for name, p in named.items() if name not in params}
    x = x.to(dtype)

    def gradient(p: Params) -> Params:
        return grad(lambda q: loss(functional_call(model, q | fixed, (x,)), y))(p)

    # The Hessian is symmetric, so use the vector-Hessian product: it reuses one forward pass.
    vector_hessian_product = vjp(gradient, params)[1]

    def product(vector: Vector) -> Vector:
        (parts,) = vector_hessian_product(_unflatten(params, vector))
        flat = _flatten(parts)
        if not np.isfinite(flat).all():
            raise FloatingPointError
        return flat

    size = sum(p.numel() for p in params.values())
    start = np.random.default_rng(0).standard_normal(size)
    hessian = LinearOperator((size, size), matvec=product, dtype=np.float64)
    try:
        if not product(start).any():
            return 0.0  # ARPACK fails on a zero Hessian, such as that of zero weights
        eigenvalues = eigsh(
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
    return float(eigenvalues[0])


def _flatten(params: Params) -> Vector:
    flat: Vector = torch.cat([p.detach().flatten() for p in params.values()]).cpu().double().numpy()
    return flat


def _unflatten(params: Params, vector: Vector) -> Params:
    parts = torch.from_numpy(vector.copy()).split([p.numel() for p in params.values()])
    return {
        name: part.to(p).view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)
    }
