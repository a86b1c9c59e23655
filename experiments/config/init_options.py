"""The `init` group: a scheme's own keys, and those that all schemes share.

Shared are `gain`, `bias` and `layers`: by layer name, what differs there. `fanin.inits` declares
the schemes; only this module reads them from a config.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from functools import cache
from typing import Any, get_type_hints

from pydantic import FiniteFloat

from experiments.config.instantiate import (
    TARGET,
    arguments,
    check_value,
    hints_of,
    instantiate,
    locate,
    plain,
    validate,
)
from fanin.errors import ConfigError, suggest
from fanin.inits import FunctionScheme, Init, LayerInit, NormalBias, Scheme

SHARED = ("gain", "bias")
GIVEN = ("weight", "generator")  # what a bare function takes beside its arguments


def init_from_config(node: Mapping[str, Any], where: str = "init") -> Init:
    """Make the init that a config node describes, its layers' overrides resolved.

    A layer's override holds `gain`, `bias`, any field of the scheme, or `_target_` and its
    arguments for another scheme; what it leaves out is as in the other layers.

    Raises
    ------
    ConfigError
        A key or value is wrong, in a layer's overrides too.

    Examples
    --------
    >>> node = {"_target_": "fanin.inits.Normal", "std": 0.1, "layers": {"conv1": {"std": 0.02}}}
    >>> init = init_from_config(node)
    >>> init.for_layer("conv1").scheme, init.for_layer("conv2").scheme
    (Normal(std=0.02, mean=0.0), Normal(std=0.1, mean=0.0))
    """
    scheme_node, shared, overrides = _split(node, where)
    scheme = scheme_from_config(scheme_node, where)
    layers = {}
    for name, override in overrides.items():
        own_scheme, own = _layer_parts(scheme, override, f"{where}.layers.{name}")
        layers[name] = LayerInit(own_scheme, **(shared | own))
    return Init(scheme, layers=layers, **shared)


def validate_init(node: Mapping[str, Any], where: str = "init") -> dict[str, Any]:
    """Return a config node as plain data, every key present and of its declared type."""
    scheme_node, shared, overrides = _split(node, where)
    validated = _validate_scheme(scheme_node, where)
    layers = {
        name: _validate_layer(validated, override, f"{where}.layers.{name}")
        for name, override in overrides.items()
    }
    return {**validated, **_plain(shared), "layers": layers}


def scheme_from_config(node: Mapping[str, Any], where: str = "init") -> Scheme:
    """Make the scheme that a config node describes.

    `_target_` names a class, a function that returns a scheme, or a function whose first two
    parameters are called `weight` and `generator`: that one *is* the scheme's `sample`.
    """
    target = locate(node, where)
    if _is_bare_function(target):
        return FunctionScheme(target, _function_arguments(target, node, where))
    scheme = instantiate(node, where)
    if not callable(getattr(scheme, "sample", None)):
        raise ConfigError(
            f"{where}.{TARGET}={node[TARGET]}: expected an init scheme, but the"
            f" {type(scheme).__name__} it makes has no sample(weight, generator)"
        )
    return scheme


def _validate_scheme(node: Mapping[str, Any], where: str) -> dict[str, Any]:
    target = locate(node, where)
    if not _is_bare_function(target):
        return validate(node, where)
    hints = hints_of(target)
    return {TARGET: node[TARGET]} | {
        name: plain(value, hints[name]) if name in hints else value
        for name, value in _function_arguments(target, node, where).items()
    }


def _split(
    node: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, Any], Mapping[str, Any]]:
    """Part a group's node into the scheme's keys, gain and bias, and the layers' overrides."""
    scheme_node = {key: value for key, value in node.items() if key not in (*SHARED, "layers")}
    known = _scheme_arguments(locate(scheme_node, where))
    for key in (*SHARED, "layers"):
        if key in known:
            raise ConfigError(
                f"{where}: {scheme_node[TARGET]} has an argument {key}, which is already a key of"
                " every init scheme; give the argument another name"
            )
    for key in scheme_node:
        if key != TARGET and key not in known:
            meant = suggest(str(key), [*known, *SHARED, "layers"])
            raise ConfigError(f"{where}.{key}: no such key; {meant}")
    hint = dict[str, dict[str, Any]]
    layers = check_value(node.get("layers") or {}, hint, f"{where}.layers")
    return scheme_node, {"gain": 1.0, "bias": None} | _shared(node, where), layers


def _shared(node: Mapping[str, Any], where: str) -> dict[str, Any]:
    shared: dict[str, Any] = {}
    if "gain" in node:
        shared["gain"] = check_value(node["gain"], FiniteFloat, f"{where}.gain")
    if isinstance(node.get("bias"), Mapping):
        shared["bias"] = check_value(node["bias"], NormalBias, f"{where}.bias")
    elif "bias" in node:
        shared["bias"] = check_value(node["bias"], FiniteFloat | None, f"{where}.bias")
    return shared


def _layer_parts(
    base: Scheme, override: Mapping[str, Any], where: str
) -> tuple[Scheme, dict[str, Any]]:
    changes = {key: value for key, value in override.items() if key not in SHARED}
    if TARGET in changes:
        return scheme_from_config(changes, where), _shared(override, where)
    return _with_fields(base, changes, where), _shared(override, where)


def _validate_layer(
    validated: Mapping[str, Any], override: Mapping[str, Any], where: str
) -> dict[str, Any]:
    _, shared = _layer_parts(scheme_from_config(validated, where), override, where)
    changes = {key: value for key, value in override.items() if key not in SHARED}
    if TARGET in changes:
        return _validate_scheme(changes, where) | _plain(shared)
    changed = _validate_scheme({**validated, **changes}, where)
    return {key: changed[key] for key in changes} | _plain(shared)


def _with_fields(scheme: Scheme, changes: Mapping[str, Any], where: str) -> Scheme:
    """The scheme with some of its fields changed, each checked against its annotation."""
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
            choices = [*known, *SHARED, TARGET]
            raise ConfigError(f"{where}.{key}: no such key; {suggest(str(key), choices)}")
        values[key] = check_value(value, hints[key], f"{where}.{key}")
    try:
        return replace(scheme, **values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error


@cache
def _field_hints(scheme: type) -> dict[str, Any]:
    return get_type_hints(scheme, include_extras=True)


def _scheme_arguments(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a scheme's `_target_` that a config gives."""
    given = GIVEN if _is_bare_function(target) else ()
    return {name: each for name, each in arguments(target).items() if name not in given}


def _is_bare_function(target: Callable[..., Any]) -> bool:
    return inspect.isfunction(target) and tuple(arguments(target))[:2] == GIVEN


def _function_arguments(
    function: Callable[..., Any], node: Mapping[str, Any], where: str
) -> dict[str, Any]:
    hints = hints_of(function)
    known = _scheme_arguments(function)
    for key in node:
        if key != TARGET and key not in known:
            raise ConfigError(f"{where}.{key}: no such key; {suggest(str(key), known)}")
    values = {}
    for name, parameter in known.items():
        if name not in node and parameter.default is inspect.Parameter.empty:
            raise ConfigError(f"{where}.{name}: missing, and {node[TARGET]} has no default")
        value = node.get(name, parameter.default)
        checked = name in node and name in hints
        values[name] = check_value(value, hints[name], f"{where}.{name}") if checked else value
    return values


def _plain(shared: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: asdict(value) if isinstance(value, NormalBias) else value
        for key, value in shared.items()
    }
