"""Arguments of `diagnose`: batches of any form, losses and optimizers, on copies of the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from fanin.diagnosis.recording import main_output, tensors_in
from fanin.errors import InputError
from fanin.images import check_model

Loss = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A copy of a model with one batch, its targets, a loss and an optimizer.

    Attributes
    ----------
    model
        The model, in the mode in which the user passed it.
    arguments, keywords
        Arguments of the model.
    targets
        Targets of the loss; None if there are none.
    loss
        Function (output, targets); None without a loss.
    optimizer
        An optimizer of the model's parameters, a learning rate, or None.
    """

    model: nn.Module
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    targets: Any
    loss: Loss | None
    optimizer: Optimizer | float | None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The input tensors by name."""
        if self.keywords:
            named = {k: v for k, v in self.keywords.items() if isinstance(v, Tensor)}
        else:
            named = {}
        tensors = list(tensors_in(self.arguments))
        if len(tensors) == 1:
            return {"input": tensors[0], **named}
        return {**{f"input[{i}]": t for i, t in enumerate(tensors)}, **named}

    @property
    def samples(self) -> int:
        """Number of samples in the batch."""
        return max((len(t) for t in self.inputs.values() if t.ndim), default=0)

    def forward(self, model: nn.Module | None = None) -> Any:
        """Run the model on a copy of the batch."""
        model = self.model if model is None else model
        return model(*_cloned(self.arguments), **_cloned(self.keywords))

    def loss_of_output(self, output: Any) -> Tensor:
        """Return the loss of an output of the model."""
        assert self.loss is not None
        value = self.loss(output, *(() if self.targets is None else (self.targets,)))
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise InputError("loss must return a tensor with one element, such as the mean loss")
        return value.reshape(())

    def loss_of_model(self, model: nn.Module) -> Tensor:
        """Return the loss of a model on the batch."""
        return self.loss_of_output(self.forward(model))

    def with_inputs(self, change: Callable[[str, Tensor], Tensor]) -> Case:
        """Return the case with changed floating-point inputs."""
        names = {id(tensor): name for name, tensor in self.inputs.items()}

        def changed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(names[id(value)], value) if value.is_floating_point() else value
            if isinstance(value, Mapping):
                return {key: changed(entry) for key, entry in value.items()}
            if isinstance(value, tuple | list):
                return type(value)(changed(entry) for entry in value)
            return value

        return replace(self, arguments=changed(self.arguments), keywords=changed(self.keywords))

    def with_model(self, model: nn.Module) -> Case:
        """Return the case with another model; its optimizer becomes a plain one of equal rate."""
        return replace(self, model=model, optimizer=_rebind(self.optimizer, self.model, model))


def make_case(
    model: nn.Module,
    batch: Any,
    targets: Any,
    loss: Loss | str | None,
    optimizer: Optimizer | float | None,
) -> Case:
    """Copy the model and the optimizer, and split a batch into inputs and targets.

    Raises
    ------
    InputError
        An argument has the wrong type, or the model cannot be copied.
    """
    check_model(model)
    if targets is None and not _is_batch(batch):
        batch = next(iter(batch))  # a loader
    arguments, keywords, targets = _split(model, batch, targets)
    try:
        # A joint copy, so that the copied optimizer holds the parameters of the copied model.
        model, optimizer, loss = deepcopy((model, optimizer, loss))
    except RuntimeError as error:
        raise InputError(f"model ({type(model).__name__}) cannot be copied: {error}") from None
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    arguments, keywords = _moved(arguments, device), _moved(keywords, device)
    targets = _moved(targets, device)
    return Case(model, arguments, keywords, targets, _resolve_loss(loss, targets), optimizer)


def _is_batch(batch: Any) -> bool:
    if isinstance(batch, Tensor | np.ndarray | Mapping | tuple | list):
        return True
    if isinstance(batch, str) or not isinstance(batch, Iterable):
        raise InputError(
            f"batch is of type {type(batch).__name__}; pass a tensor, a tuple or dictionary of"
            " tensors, or a DataLoader"
        )
    return False


def _split(
    model: nn.Module, batch: Any, targets: Any
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Return positional arguments, keyword arguments and targets."""
    if isinstance(batch, Tensor | np.ndarray):
        return (_tensor(batch),), {}, _tensor(targets)
    accepted = inspect.signature(model.forward).parameters
    if isinstance(batch, Mapping):
        if len(accepted) == 1 and not set(batch) & set(accepted):
            return (dict(batch),), {}, _tensor(targets)
        rest = {key: _tensor(value) for key, value in batch.items() if key in accepted}
        others = [key for key in batch if key not in accepted]
        if targets is None and len(others) == 1:
            targets = batch[others[0]]
        elif others and targets is None and len(others) > 1:
            raise InputError(
                f"batch has the keys {', '.join(map(str, others))}, which are no arguments of the"
                f" model ({', '.join(accepted)}); pass targets=..."
            )
        return (), rest, _tensor(targets)
    parts = tuple(_tensor(part) for part in batch)
    required = [
        p
        for p in accepted.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if targets is None and len(parts) == len(required) + 1:
        *inputs, targets = parts
        return tuple(inputs), {}, targets
    if len(required) == 1 and len(parts) > 1 and targets is not None:
        return (parts,), {}, _tensor(targets)  # one argument that is a tuple
    return parts, {}, _tensor(targets)


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device)
    if isinstance(value, Mapping):
        return {key: _moved(entry, device) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_moved(entry, device) for entry in value)
    return value


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _cloned(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_cloned(entry) for entry in value)
    return value


def _resolve_loss(loss: Loss | str | None, targets: Any) -> Loss | None:
    if isinstance(loss, str):
        function = getattr(F, loss, None)
        if function is None:
            raise InputError(
                f"loss={loss!r}: no such function in torch.nn.functional; for example"
                " cross_entropy, mse_loss, binary_cross_entropy_with_logits"
            )
        resolved: Loss = function
        return resolved
    if loss is not None or not isinstance(targets, Tensor):
        return loss
    return _default_cross_entropy if not targets.is_floating_point() else _default_mse


def _default_cross_entropy(output: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(main_output(output), targets.long())


def _default_mse(output: Any, targets: Tensor) -> Tensor:
    output = main_output(output)
    return F.mse_loss(output, targets.to(output).view_as(output))


def _rebind(
    optimizer: Optimizer | float | None, old: nn.Module, new: nn.Module
) -> Optimizer | float | None:
    """Return an optimizer of the same kind and settings for the parameters of another model."""
    if not isinstance(optimizer, Optimizer):
        return optimizer
    replacement = dict(zip(map(id, old.parameters()), new.parameters(), strict=True))
    groups = [
        {**group, "params": [replacement.get(id(p), p) for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    copy = deepcopy(optimizer)
    copy.param_groups = groups
    copy.state.clear()
    return copy
