"""Detection of elementwise modules, and derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

Function = Callable[[Tensor], Tensor]


def elementwise(module: nn.Module, equal_nan: bool = False) -> Function | None:
    """Return the module as a float64 function if it acts elementwise, else None.

    The module is run on a random tensor, on the same values in another shape and order, and with
    a few other values; it is elementwise if the outputs of the same values match. Activations from
    other libraries therefore need no registration. With `equal_nan`, it may be undefined somewhere,
    such as a square root.

    Examples
    --------
    >>> class DivideByMaximum(nn.Module):
    ...     def forward(self, x):
    ...         return x / x.max()
    >>> [elementwise(module) is None for module in (nn.Tanh(), nn.Softmax(dim=1))]
    [False, True]
    >>> elementwise(DivideByMaximum()) is None
    True
    """
    state = copy_state(module, "cpu")
    if isinstance(module, nn.PReLU) and bool((module.weight == module.weight[0]).all()):
        state["weight"] = state["weight"][:1]  # one slope for all channels, as it is initialized

    def function(x: Tensor) -> Tensor:
        # Cloned, because some activations modify their input in place.
        y: Tensor = functional_call(module, state, (x.clone(),))
        return y

    return function if _is_elementwise(function, equal_nan) else None


def copy_state(module: nn.Module, device: str) -> dict[str, Tensor]:
    """Copy a module's parameters and buffers, so that a forward pass cannot change them."""
    state = [*module.named_parameters(), *module.named_buffers()]
    return {
        name: tensor.detach().to(device, torch.float64, copy=True)
        if tensor.is_floating_point()
        else tensor.detach().to(device, copy=True)
        for name, tensor in state
    }


def derivative(
    function: Function, x: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return the values and derivatives of an elementwise function.

    The derivative is autograd's, so relu'(0) = 0.

    Examples
    --------
    >>> derivative(torch.relu, torch.tensor([-1.0, 0.0, 2.0]))
    (tensor([0., 0., 2.]), tensor([0., 0., 1.]))
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = function(x)
        if not y.requires_grad:
            return y, torch.zeros_like(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope


def vjp(
    outputs: Tensor, inputs: Sequence[Tensor], cotangent: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Return the vector-Jacobian product for each input; 0 if the outputs do not depend on it.

    The argument `grad_outputs` of `torch.autograd.grad` would import sympy, which takes 0.7 s.
    """
    with torch.enable_grad():
        product = (outputs * cotangent).sum()
    return torch.autograd.grad(product, inputs, create_graph=create_graph, materialize_grads=True)


def _is_elementwise(function: Function, equal_nan: bool) -> bool:
    """Return True if the order of the values does not matter, nor does each for the others."""
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(120, generator=generator, dtype=torch.float64)
    order = torch.randperm(len(x), generator=generator)
    changed, kept = _with_other_values(x)
    try:
        with torch.no_grad():
            y, y_of_shuffled = function(x.reshape(6, 20)), function(x[order].reshape(8, 15))
            y_of_changed = function(changed.reshape(6, 20))
    except Exception:  # modules raise various exceptions for shapes that they reject
        return False
    if y.shape != (6, 20) or y_of_shuffled.shape != (8, 15) or y_of_changed.shape != (6, 20):
        return False

    def is_same(a: Tensor, b: Tensor) -> bool:
        # Vectorized and scalar code may round differently.
        return torch.allclose(a, b, rtol=1e-12, atol=1e-300, equal_nan=equal_nan)

    y = y.flatten()
    return is_same(y_of_shuffled.flatten(), y[order]) and is_same(
        y_of_changed.flatten()[kept], y[kept]
    )


def _with_other_values(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return values of which two are larger than all, and which of them were kept.

    The smallest value and the one nearest to 0 change, so that sums, extrema, quantiles and numbers
    of positive values do as well.
    """
    changed, kept = x.clone(), torch.ones(len(x), dtype=torch.bool)
    for i, factor in ((x.argmin(), 10), (x.abs().argmin(), 20)):
        changed[i], kept[i] = factor * x.abs().max(), False
    return changed, kept
