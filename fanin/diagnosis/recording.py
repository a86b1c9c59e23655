"""Record of one forward and backward pass: the outputs and gradients of modules and functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Threshold)
RECTIFIER_FUNCTIONS = {"relu", "relu_", "threshold", "clamp_min", "relu6", "clamp"}


@dataclass
class Statistics:
    """Statistics of a tensor, computed when it was recorded."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    rms: float
    largest: float
    nonfinite: int
    nan: int

    @classmethod
    def of(cls, tensor: Tensor) -> Statistics:
        """Compute the statistics of a floating-point tensor."""
        # float64, because the square of a large float32 overflows
        values = tensor.detach().double()
        finite = values[values.isfinite()]
        return cls(
            shape=tuple(tensor.shape),
            dtype=tensor.dtype,
            rms=float(finite.square().mean().sqrt()) if finite.numel() else float("nan"),
            largest=float(finite.abs().max()) if finite.numel() else float("nan"),
            nonfinite=values.numel() - finite.numel(),
            nan=int(values.isnan().sum()),
        )


@dataclass
class Call:
    """One call of a module without submodules, or of a torch function outside such a module.

    Attributes
    ----------
    name
        Module path; for a function, its name and the module that ran before it.
    module
        The module, or None for a function.
    input_is_finite
        True if all tensors that it received are finite.
    input_is_masked
        True if they have values of -inf, as in an attention mask, and no other non-finite values.
    output
        Statistics of its output (the first tensor, if there are several).
    gradient
        Statistics of the gradient of the loss with respect to the output; None if there is none.
    upstream
        Names of the modules through which the output depends on the input or on weights.
    units
        Number of units, for a rectifier; 0 for other calls.
    dead
        Share of units whose output is 0 on the whole batch, for a rectifier; None for
        other calls.
    """

    name: str
    module: nn.Module | None
    input_is_finite: bool
    input_is_masked: bool
    output: Statistics
    gradient: Statistics | None = None
    upstream: frozenset[str] = frozenset()
    units: int = 0
    dead: float | None = None


@dataclass
class LossCall:
    """A call of a torch function in the loss, with its tensors.

    Attributes
    ----------
    function
        Name of the function, such as `cross_entropy`, `log` or `mse_loss`.
    inputs
        Its tensor arguments in order, detached.
    output
        Its output, detached.
    """

    function: str
    inputs: tuple[Tensor, ...]
    output: Tensor


@dataclass
class Recording:
    """Result of `record`.

    Attributes
    ----------
    calls
        Calls of the forward pass, in the order in which they ran.
    output
        Output of the model, detached.
    loss
        Value of the loss; None without a loss.
    loss_calls
        Calls of torch functions in the loss.
    gradients
        Gradients of the parameters by name. None for a parameter without one.
    """

    calls: list[Call]
    output: Tensor
    loss: float | None
    loss_calls: list[LossCall]
    gradients: dict[str, Tensor | None]

    @property
    def is_finite(self) -> bool:
        """True if the output, the loss and the gradients are finite."""
        return (
            bool(self.output.isfinite().all())
            and (self.loss is None or isfinite(self.loss))
            and self.gradients_are_finite
        )

    @property
    def gradients_are_finite(self) -> bool:
        """True if the gradients of all recorded outputs are finite."""
        return all(call.gradient is None or not call.gradient.nonfinite for call in self.calls)


def record(
    model: nn.Module, forward: Callable[[], Any], loss: Callable[[Tensor], Tensor] | None
) -> Recording:
    """Run a model and its loss forward and backward, and record all calls.

    Without a loss, a random vector of mean square 1 at the output is propagated back. The gradients
    of the parameters are overwritten.

    Parameters
    ----------
    model
        The model, whose modules are recorded.
    forward
        Runs the model on the batch.
    loss
        Function of the model's output.
    """
    model.zero_grad(set_to_none=True)
    recorder = _Recorder()
    with torch.enable_grad(), recorder.recorded(model):
        raw = forward()
    output = raw if isinstance(raw, Tensor) else main_output(raw)
    losses = _LossRecorder()
    value: Tensor | None = None
    with torch.enable_grad():
        if loss is not None:
            with losses:
                value = loss(raw)
            root = value
        else:
            signs = torch.randint(0, 2, output.shape, device=output.device)
            root = (output * (2 * signs - 1).to(output.dtype)).sum()
        if root.requires_grad:
            root.backward()
    return Recording(
        calls=recorder.calls,
        output=output.detach(),
        loss=None if value is None else float(value.detach()),
        loss_calls=losses.calls,
        gradients={name: p.grad for name, p in model.named_parameters()},
    )


def main_output(output: Any) -> Tensor:
    """Return the tensor that a model predicts with: `logits`, or the first floating-point tensor.

    Examples
    --------
    >>> main_output({"hidden": [torch.zeros(1)], "logits": torch.ones(1)}).tolist()
    [1.0]
    """
    if isinstance(output, Mapping) and "logits" in output:
        return main_output(output["logits"])
    for tensor in tensors_in(output):
        if tensor.is_floating_point():
            return tensor
    raise TypeError(f"the model returns {type(output).__name__} without a floating-point tensor")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for entry in value:
            yield from tensors_in(entry)


def stored_values(tensor: Tensor) -> Tensor:
    """Return the explicit values of a sparse tensor; a dense tensor itself."""
    tensor = tensor.detach()
    if tensor.layout == torch.strided:
        return tensor
    return tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor.values()


def is_invalid(tensor: Tensor, mask: bool = False) -> Tensor:
    """Return where a tensor is not finite. With `mask`, -inf is valid, as in an attention mask."""
    return tensor.isnan() | tensor.isposinf() if mask else ~tensor.isfinite()


class _Recorder(TorchFunctionMode):
    """Records the calls of modules (through hooks) and of functions outside them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._starts: list[int] = []  # of each running module: number of calls before it
        self._nodes: dict[int, Any] = {}  # of the autograd graph, by the id of a call
        self._unit_axis = 1
        self._paused = False

    @contextmanager
    def recorded(self, model: nn.Module) -> Iterator[None]:
        """Record the calls that run in this context."""
        handles: list[RemovableHandle] = []
        for name, module in model.named_modules():
            if "parametrizations" in name.split("."):
                continue  # computes a weight; it is part of the layer that has this weight
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(partial(self._leave, name)))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()
        self._set_upstream()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if not self._paused and isinstance(result, Tensor) and result.requires_grad:
            name = getattr(function, "__name__", str(function))
            before = next((call.name for call in reversed(self.calls) if call.module), "")
            self._add(
                *(f"{name} after {before}" if before else name, None, args, result),
                is_rectifier=name in RECTIFIER_FUNCTIONS,
            )
        return result

    def _set_upstream(self) -> None:
        """Set the upstream modules of each call of a module, from the graph of autograd."""
        names: dict[Any, set[str]] = {}
        calls = [(c, self._nodes[id(c)]) for c in self.calls if c.module and id(c) in self._nodes]
        for call, node in calls:
            names.setdefault(node, set()).add(call.name)
        upstream: dict[Any, frozenset[str]] = {}
        for call, root in calls:
            stack = [root]
            while stack:
                before = [n for n, _ in stack[-1].next_functions if n is not None]
                missing = [n for n in before if n not in upstream]
                if missing:
                    stack += missing
                    continue
                node = stack.pop()
                upstream[node] = frozenset().union(
                    *(upstream[n] | names.get(n, set()) for n in before)
                )
            call.upstream = upstream[root]
        self._nodes.clear()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._starts.append(len(self.calls))

    def _leave(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        nested = self.calls[self._starts.pop() :]
        if not name or any(call.module is not None for call in nested):
            return  # a container; its modules and functions are recorded
        if isinstance(module, nn.Linear):
            self._unit_axis = -1
        elif isinstance(module, _ConvNd):
            self._unit_axis = 1
        # A module is recorded as one call, without the functions that it calls.
        del self.calls[len(self.calls) - len(nested) :]
        is_rectifier = isinstance(module, RECTIFIERS) or bool(
            nested and nested[-1].dead is not None
        )
        self._add(name, module, inputs, output, is_rectifier=is_rectifier)

    def _add(
        self, name: str, module: nn.Module | None, inputs: Any, output: Any, *, is_rectifier: bool
    ) -> None:
        tensor = next((t for t in tensors_in(output) if t.is_floating_point()), None)
        if tensor is None or not tensor.numel():
            return
        self._paused = True
        values = [stored_values(t) for t in tensors_in(inputs)]
        is_finite = all(bool(v.isfinite().all()) for v in values)
        is_masked = not is_finite and not any(bool(is_invalid(v, mask=True).any()) for v in values)
        call = Call(name, module, is_finite, is_masked, Statistics.of(tensor))
        if is_rectifier and tensor.ndim > 1:
            by_unit = tensor.detach().movedim(self._unit_axis, 0).flatten(1)
            call.units = len(by_unit)
            call.dead = float((by_unit <= 0).all(1).double().mean())
        if tensor.requires_grad:
            tensor.register_hook(partial(_set_gradient, call))
            self._nodes[id(call)] = tensor.grad_fn
        self._paused = False
        self.calls.append(call)


class _LossRecorder(TorchFunctionMode):
    """Records the calls of torch functions with tensor results in a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[LossCall] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if isinstance(result, Tensor):
            inputs = tuple(t.detach() for t in tensors_in([*args, *kwargs.values()]))
            self.calls.append(
                LossCall(getattr(function, "__name__", str(function)), inputs, result.detach())
            )
        return result


def _set_gradient(call: Call, gradient: Tensor) -> None:
    call.gradient = Statistics.of(gradient)
