"""An init scheme, from wherever it comes: this package, another one, or a bare function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any, Protocol, get_type_hints, runtime_checkable

import torch
from torch import Tensor, nn

from fanin.errors import ConfigError, nearest
from fanin.inits.weight_shape import WeightShape
from fanin.instantiate import (
    TARGET,
    arguments,
    build,
    check_value,
    coerce,
    hints_of,
    locate,
    plain,
)

GIVEN = ("weight", "generator")


class Scheme(Protocol):
    """What every scheme can do.

    It may also have `moments(weight) -> Moments | None`, which the theory reads (absent or None
    means unknown), and `bias(weight, layer) -> Scheme`, biases of its own: drawn as the weight of a
    linear layer with one input.
    """

    def sample(self, weight: WeightShape, generator: torch.Generator) -> Tensor:
        """Draw a weight tensor of shape `weight.shape`."""


@runtime_checkable
class CalibratedScheme(Scheme, Protocol):
    """A scheme that changes the weights once more, by looking at data."""

    def calibrate(self, model: nn.Module, images: Tensor, layers: Collection[str]) -> None:
        """Change the weights of the layers of those names in place."""


@dataclass(frozen=True)
class FunctionScheme:
    """A bare function `f(weight, generator, **arguments)` as a scheme of unknown moments.

    Examples
    --------
    >>> def twos(weight, generator):
    ...     return torch.full(weight.shape, 2.0)
    >>> FunctionScheme(twos).sample(WeightShape(1, 2), torch.Generator())
    tensor([[2., 2.]])
    """

    function: Callable[..., Tensor]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def sample(self, weight: WeightShape, generator: torch.Generator) -> Tensor:
        return self.function(weight, generator, **self.arguments)


def coerce_scheme(node: Mapping[str, Any], where: str = "init") -> dict[str, Any]:
    """Return a scheme's config as plain data, every argument present and of its declared type.

    Raises
    ------
    ConfigError
        As `build.coerce`.
    """
    target = locate(node, where)
    if not _is_bare_function(target):
        return coerce(node, where)
    hints = hints_of(target)
    return {TARGET: node[TARGET]} | {
        name: plain(value, hints[name]) if name in hints else value
        for name, value in _function_arguments(target, node, where).items()
    }


def scheme_from_config(node: Mapping[str, Any], where: str = "init") -> Scheme:
    """Make the scheme that a config node describes.

    `_target_` names a class, a function that returns a scheme, or a function whose first two
    parameters are called `weight` and `generator`: that one *is* the scheme's `sample`.

    Raises
    ------
    ConfigError
        As `build.build`, and if what was built can't `sample`.

    Examples
    --------
    >>> scheme_from_config({"_target_": "fanin.inits.Normal", "std": 0.1})
    Normal(std=0.1, mean=0.0)
    """
    target = locate(node, where)
    if _is_bare_function(target):
        return FunctionScheme(target, _function_arguments(target, node, where))
    scheme = build(node, where)
    if not callable(getattr(scheme, "sample", None)):
        raise ConfigError(
            f"{where}.{TARGET}={node[TARGET]}: expected an init scheme, but the"
            f" {type(scheme).__name__} it makes has no sample(weight, generator)"
        )
    return scheme


def with_fields(scheme: Scheme, changes: Mapping[str, Any], where: str) -> Scheme:
    """The scheme with some of its fields changed, each checked against its annotation.

    Raises
    ------
    ConfigError
        There is no such field, the value has the wrong type, or the scheme is no dataclass.

    Examples
    --------
    >>> from fanin.inits import Normal
    >>> with_fields(Normal(std=0.1), {"std": 1}, "init.layers.conv1")
    Normal(std=1.0, mean=0.0)
    """
    if not changes:
        return scheme
    if not is_dataclass(scheme) or isinstance(scheme, FunctionScheme):
        raise ConfigError(
            f"{where}.{next(iter(changes))}: this scheme's arguments can't be changed one by one,"
            f" as only a dataclass's can; give {TARGET} and its arguments for the layer"
        )
    hints = _field_hints(type(scheme))
    known = [each.name for each in fields(scheme) if each.init]
    values = {}
    for key, value in changes.items():
        if key not in known:
            choices = [*known, "gain", "bias", TARGET]
            raise ConfigError(f"{where}.{key}: no such key; {nearest(str(key), choices)}")
        values[key] = check_value(value, hints[key], f"{where}.{key}")
    try:
        return replace(scheme, **values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error


@cache
def _field_hints(scheme: type) -> dict[str, Any]:
    return get_type_hints(scheme, include_extras=True)


def scheme_arguments(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a scheme's `_target_` that a config gives."""
    given = GIVEN if _is_bare_function(target) else ()
    return {name: each for name, each in arguments(target).items() if name not in given}


def _is_bare_function(target: Callable[..., Any]) -> bool:
    return inspect.isfunction(target) and tuple(arguments(target))[:2] == GIVEN


def _function_arguments(
    function: Callable[..., Any], node: Mapping[str, Any], where: str
) -> dict[str, Any]:
    hints = hints_of(function)
    known = scheme_arguments(function)
    for key in node:
        if key != TARGET and key not in known:
            raise ConfigError(f"{where}.{key}: no such key; {nearest(str(key), known)}")
    values = {}
    for name, parameter in known.items():
        if name not in node and parameter.default is inspect.Parameter.empty:
            raise ConfigError(f"{where}.{name}: missing, and {node[TARGET]} has no default")
        value = node.get(name, parameter.default)
        checked = name in node and name in hints
        values[name] = check_value(value, hints[name], f"{where}.{name}") if checked else value
    return values
