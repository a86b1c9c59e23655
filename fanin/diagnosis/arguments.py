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
from torch.nn.utils.rnn import PackedSequence
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
        return {
            name if len(tensors) == 1 else f"{name}[{i}]": tensor
            for name, value in {"input": self.arguments, **self.keywords}.items()
            for tensors in [list(tensors_in(value))]
            for i, tensor in enumerate(tensors)
        }

    @property
    def samples(self) -> int:
        """Number of samples in the batch."""
        return max((len(t) for t in self.inputs.values() if t.ndim), default=0)

    def forward(self, model: nn.Module | None = None) -> Any:
        """Run the model on a copy of the batch."""
        model = self.model if model is None else model
        arguments = _map_tensors(torch.clone, self.arguments)
        try:
            return model(*arguments, **_map_tensors(torch.clone, self.keywords))
        except RuntimeError as error:
            if raw := [name for name, t in self.inputs.items() if t.dtype == torch.uint8]:
                raise InputError(
                    f"{raw[0]} has dtype uint8, which the model does not accept; convert and scale"
                    f" it as in training, for example: {raw[0]}.float() / 255"
                ) from error
            raise

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

        def changed(tensor: Tensor) -> Tensor:
            return change(names[id(tensor)], tensor) if tensor.is_floating_point() else tensor

        return replace(
            self,
            arguments=_map_tensors(changed, self.arguments),
            keywords=_map_tensors(changed, self.keywords),
        )

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
    if not _is_batch(batch):
        if targets is not None:
            raise InputError(
                "batch is a loader, whose first batch has the targets; omit targets, or pass one"
                " batch"
            )
        batch = next(iter(batch))  # a loader
    if isinstance(optimizer, Optimizer):
        _check_optimizer(model, optimizer)
    parameter = next(model.parameters(), torch.empty(0))
    batch, targets = _tensors((batch, targets), parameter.dtype)
    arguments, keywords, targets = _split(model, batch, targets)
    try:
        # A joint copy, so that the copied optimizer holds the parameters of the copied model.
        model, optimizer, loss = deepcopy((model, optimizer, loss))
    except (RuntimeError, TypeError) as error:
        raise InputError(f"model ({type(model).__name__}) cannot be copied: {error}") from None
    arguments, keywords, targets = _moved((arguments, keywords, targets), parameter.device)
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
    if isinstance(batch, Tensor | PackedSequence):
        return (batch,), {}, targets
    accepted = inspect.signature(_unwrapped(model).forward).parameters
    if isinstance(batch, Mapping):
        if len(accepted) == 1 and not set(batch) & set(accepted):
            return (dict(batch),), {}, targets
        rest = {key: value for key, value in batch.items() if key in accepted}
        others = [key for key in batch if key not in accepted]
        if targets is None and len(others) == 1:
            targets = batch[others[0]]
        elif others and targets is None and len(others) > 1:
            raise InputError(
                f"batch has the keys {', '.join(map(str, others))}, which are no arguments of the"
                f" model ({', '.join(accepted)}); pass targets=..."
            )
        return (), rest, targets
    parts = tuple(batch)
    positional = [
        p for p in accepted.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    required = [p for p in positional if p.default is p.empty]
    has_any_number = any(p.kind == p.VAR_POSITIONAL for p in accepted.values())
    if targets is None and len(parts) == len(required) + 1:
        *inputs, targets = parts
        return tuple(inputs), {}, targets
    if len(positional) == 1 and len(parts) > 1 and not has_any_number:
        return (batch,), {}, targets  # one argument that is a tuple
    return parts, {}, targets


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the module in DataParallel or torch.compile, whose own forward takes anything."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return _unwrapped(compiled) if isinstance(compiled, nn.Module) else model


def _tensors(value: Any, dtype: torch.dtype) -> Any:
    """Replace arrays by tensors; float64, numpy's default, becomes the model's dtype."""

    def converted(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        is_double = tensor.dtype == torch.float64 and dtype.is_floating_point
        return tensor.to(dtype) if is_double else tensor

    return _map_tensors(converted, value, np.ndarray)


def _moved(value: Any, device: torch.device) -> Any:
    """Move a batch to the model's device, unless one of its tensors is there already.

    Such a batch is complete: a model may need the others elsewhere, as the lengths of
    `pack_padded_sequence`.
    """
    tensors = list(tensors_in(value))
    if any(tensor.device == device for tensor in tensors):
        return _map_tensors(Tensor.detach, value)
    return _map_tensors(lambda tensor: tensor.detach().to(device), value)


def _map_tensors(function: Callable[[Any], Tensor], value: Any, kind: type = Tensor) -> Any:
    """Apply a function to the tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _map_tensors(function, entry, kind) for key, entry in value.items()}
    if isinstance(value, PackedSequence):
        names = ("data", "sorted_indices", "unsorted_indices")  # batch_sizes stay on the CPU
        return value._replace(
            **{name: _map_tensors(function, getattr(value, name), kind) for name in names}
        )
    if isinstance(value, tuple | list):
        entries = [_map_tensors(function, entry, kind) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value


def _check_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    """Raise InputError if training with this optimizer cannot change the model."""
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    held = [p for p in model.parameters() if id(p) in optimized]
    if not held:
        raise InputError(
            "optimizer has none of the model's parameters, so training does not change the model;"
            " create the optimizer from model.parameters() after the model"
        )
    if not any(p.requires_grad for p in held):
        raise InputError(
            "no parameter of the optimizer has requires_grad=True, so training does not change the"
            " model; set it for the layers to train"
        )


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
    output = main_output(output)
    if output.ndim > 1 and targets.numel() and int(targets.max()) >= output.shape[1]:
        raise InputError(
            f"targets go up to {int(targets.max())}, but the model has {output.shape[1]} outputs,"
            f" for the classes 0 to {output.shape[1] - 1}"
        )
    return F.cross_entropy(output, targets.long())


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
