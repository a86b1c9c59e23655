"""Adapters from the user's own classes and functions to the types of the config groups.

`ADAPTERS` maps a group to a function of its `_target_`. It returns targets that already make an
object of the group's type unchanged. For others it returns a function with the same arguments,
without those that fanin passes, so that configs are checked and completed in the usual way.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Union, get_args, get_origin

import torch
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from torch import Tensor, nn

from experiments.config.instantiate import arguments, hints_of
from experiments.torch_optim import LEFT_OUT, TorchOptimizer
from fanin.errors import ConfigError
from fanin.losses import CustomLoss
from fanin.models import PASSED, ModuleModel

Target = Callable[..., Any]

# Loss modules of torch that compare each output with a number.
ONE_HOT = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.MultiLabelSoftMarginLoss,
)
REDUCTION = ("size_average", "reduce", "reduction")  # arguments of torch's losses

EXAMPLES = {
    "model": """\
from math import prod
from torch import nn
def net(input_shape, n_outputs, width=64):
    first = nn.Linear(prod(input_shape), width)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(width, n_outputs))""",
    "loss": """\
import torch.nn.functional as F
def focal(logits, targets, gamma=2.0):
    loss = F.cross_entropy(logits, targets, reduction="none")
    weight = (1 - (-loss).exp()) ** gamma
    return weight * loss""",
    "optim": """\
import torch
class Halved(torch.optim.SGD):
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]: p.grad /= 2
        super().step(closure)""",
    "schedule": """\
def halving(step, total, times=3):
    return 0.5 ** (times * step // total)""",
    "activation": """\
import torch
def squared_relu(x):
    return torch.relu(x) ** 2""",
}
"""Code of the user for each group, shown if `_target_` makes another object."""


@cache
def adapt_model(target: Target) -> Target:
    """Adapt an `nn.Module` class, or a function that returns a module, to `Model`."""
    if inspect.isclass(target) and not (
        issubclass(target, nn.Module) and not hasattr(target, "build")
    ):
        return target
    known = _parameters(target)
    passed = tuple(name for name in PASSED if name in known and _accepts(known[name]))

    def make(values: dict[str, Any]) -> Any:
        model = ModuleModel(target, values, passed)
        if inspect.isclass(target) or passed:
            return model
        result = target(**values)  # a module, or a model
        return model if isinstance(result, nn.Module) else result

    return _with_signature(make, target, passed)


def _accepts(parameter: inspect.Parameter) -> bool:
    """Return False for an `activation` that is the name of an activation, such as "relu"."""
    default = parameter.default
    return parameter.name != "activation" or default is parameter.empty or callable(default)


@cache
def adapt_loss(target: Target) -> Target:
    """Adapt a function of (logits, targets), or a loss module's class, to `CustomLoss`."""
    if inspect.isclass(target) and not issubclass(target, nn.Module):
        return target
    known = _parameters(target)
    name = getattr(target, "__name__", str(target))
    per_image: dict[str, Any] = {}
    if "reduction" in known and isinstance(known["reduction"].default, str):
        per_image = {"reduction": "none"}
    if inspect.isclass(target):

        def make(values: dict[str, Any]) -> CustomLoss:
            module: Any = target(**values, **per_image)
            if any(True for _ in module.parameters()):
                raise ConfigError(f"loss: {name} has parameters; fanin trains only the model's")
            return CustomLoss(module, name, isinstance(module, ONE_HOT))

        return _with_signature(make, target, REDUCTION if per_image else ())
    tensors = [p for p in known.values() if p.default is p.empty][:2]
    if len(tensors) < 2:
        return target

    def bind(values: dict[str, Any]) -> CustomLoss:
        def loss(logits: Tensor, targets: Tensor) -> Tensor:
            result: Tensor = target(logits, targets, **values, **per_image)
            return result

        return CustomLoss(loss, name)

    hidden = [p.name for p in tensors] + list(REDUCTION if per_image else ())
    return _with_signature(bind, target, hidden)


@cache
def adapt_optim(target: Target) -> Target:
    """Adapt a `torch.optim.Optimizer` class to `Optimizer`."""
    if not (inspect.isclass(target) and issubclass(target, torch.optim.Optimizer)):
        return target
    if "lr" not in _parameters(target):
        raise ConfigError(f"optim: {target.__name__} needs a parameter lr, the learning rate")

    def make(values: dict[str, Any]) -> TorchOptimizer:
        options = {name: value for name, value in values.items() if name != "lr"}
        optimizer = TorchOptimizer(target, values["lr"], options)
        optimizer.init({"weight": torch.zeros(2, 2)})  # checks the values, and takes a step
        return optimizer

    return _with_signature(make, target, LEFT_OUT)


@dataclass(frozen=True)
class FunctionSchedule:
    """Schedule that calls a function of (step, total)."""

    function: Callable[[int, int], float]

    def factor(self, step: int, total: int) -> float:
        """Return the factor of the learning rate at `step` of `total`."""
        return self.function(step, total)


@cache
def adapt_schedule(target: Target) -> Target:
    """Adapt a function of (step, total) to `Schedule`."""
    if inspect.isclass(target) or not {"step", "total"} <= _parameters(target).keys():
        return target

    def make(values: dict[str, Any]) -> FunctionSchedule:
        return FunctionSchedule(partial(target, **values))

    return _with_signature(make, target, ("step", "total"))


class FunctionActivation(nn.Module):
    """Activation that calls a function of a tensor."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of `x`."""
        return self.function(x)


@cache
def adapt_activation(target: Target) -> Target:
    """Adapt a function of a tensor to an activation module."""
    if inspect.isclass(target):
        return target
    known = [*_parameters(target).values()]
    if not known or known[0].default is not known[0].empty:
        return target

    def make(values: dict[str, Any]) -> FunctionActivation:
        return FunctionActivation(partial(target, **values))

    return _with_signature(make, target, (known[0].name,))


ADAPTERS: dict[str, Callable[[Target], Target]] = {
    "model": adapt_model,
    "loss": adapt_loss,
    "optim": adapt_optim,
    "schedule": adapt_schedule,
    "activation": adapt_activation,
}


def _with_signature(
    make: Callable[[dict[str, Any]], Any], target: Target, hidden: Collection[str]
) -> Target:
    """Return a function that calls `make` with the target's arguments, except the hidden ones.

    Arguments with a default that a config can't contain (a class, a tensor) keep it. Annotations
    are used as far as pydantic knows their types.
    """
    known, hints = _parameters(target), _hints(target)
    parameters, usable, tuples = [], {}, set()
    for name, parameter in known.items():
        default = parameter.default
        if name in hidden or not (default is parameter.empty or _is_plain(default)):
            continue
        adapter = _adapter(hints[name]) if name in hints else None
        if adapter is not None:
            try:
                default = default if default is parameter.empty else adapter[1](default)
                usable[name] = adapter[0]
            except ValidationError:  # such as `width: int = None`
                pass
        if isinstance(default, tuple) and name not in usable:
            tuples.add(name)
            default = list(default)
        parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, default=default))

    def adapted(**values: Any) -> Any:
        return make({n: tuple(v) if n in tuples else v for n, v in values.items()})

    adapted.__name__ = adapted.__qualname__ = getattr(target, "__name__", str(target))
    adapted.__annotations__ = usable
    adapted.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return adapted


def _parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    return arguments(target)


def _hints(target: Target) -> Mapping[str, Any]:
    try:
        return hints_of(target)
    except ConfigError:  # names imported only for type checkers
        return {}


def _adapter(hint: Any) -> tuple[Any, Callable[[Any], Any]] | None:
    """Return an annotation without tensors, and its validator; None if pydantic has none."""
    if get_origin(hint) in (Union, types.UnionType):
        parts = tuple(part for part in get_args(hint) if part is not Tensor)
        hint = Union[parts] if parts else Any  # noqa: UP007
    try:
        return hint, TypeAdapter(hint).validate_python
    except PydanticSchemaGenerationError:
        return None


def _is_plain(value: object) -> bool:
    """Return True for numbers, strings, None, and lists, tuples and dictionaries of them."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str)
