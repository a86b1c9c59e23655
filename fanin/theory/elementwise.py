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

    The module is run on a random tensor and on the same values in another shape and order; it is
    elementwise if the outputs match. Activations from other libraries therefore need no
    registration. With `equal_nan`, it may be undefined somewhere, such as a square root.

    Examples
    --------
    >>> elementwise(nn.Tanh()) is None, elementwise(nn.Softmax(dim=1)) is None
    (False, True)
    """
    state = copy_state(module, "cpu")
    if isinstance(module, nn.PReLU) and bool((module.weight == module.weight[0]).all()):
        state["weight"] = state["weight"][:1]  # one slope for all channels, as it is initialized

    def function(x: Tensor) -> Tensor:
        # Cloned, because some activations modify their input in place.
        y: Tensor = functional_call(module, state, (x.clone(),))
        return y

    return function if _ignores_order(function, equal_nan) else None


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


def _ignores_order(function: Function, equal_nan: bool) -> bool:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(120, generator=generator, dtype=torch.float64)
    order = torch.randperm(len(x), generator=generator)
    try:
        with torch.no_grad():
            y, y_of_shuffled = function(x.reshape(6, 20)), function(x[order].reshape(8, 15))
    except Exception:  # modules raise various exceptions for shapes that they reject
        return False
    if y.shape != (6, 20) or y_of_shuffled.shape != (8, 15):
        return False
    # Vectorized and scalar code may round differently.
    first, second = y_of_shuffled.flatten(), y.flatten()[order]
    return torch.allclose(first, second, rtol=1e-12, atol=1e-300, equal_nan=equal_nan)
