"""The `init` group: the keys of each scheme and the keys common to all schemes.

The common keys are `gain`, `bias` and `layers` (overrides by layer name). `fanin.inits` declares
the schemes; this module reads them from a config.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
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

COMMON_KEYS = ("gain", "bias")
SAMPLE_PARAMETERS = ("weight", "generator")  # first parameters of a function that samples


def init_from_config(node: Mapping[str, Any], key_path: str = "init") -> Init:
    """Build the init of a config node and resolve its per-layer overrides.

    An override contains `gain`, `bias`, fields of the scheme, or `_target_` and its arguments for
    another scheme. Everything else is as in the other layers.

    Raises
    ------
    ConfigError
        A key or value is wrong.

    Examples
    --------
    >>> node = {"_target_": "fanin.inits.Normal", "std": 0.1, "layers": {"conv1": {"std": 0.02}}}
    >>> init = init_from_config(node)
    >>> init.for_layer("conv1").scheme, init.for_layer("conv2").scheme
    (Normal(std=0.02, mean=0.0), Normal(std=0.1, mean=0.0))
    """
    scheme_node, common, overrides = _split(node, key_path)
    scheme = scheme_from_config(scheme_node, key_path)
    layers = {}
    for name, override in overrides.items():
        layer_scheme, layer_common = _layer_parts(scheme, override, f"{key_path}.layers.{name}")
        layers[name] = LayerInit(layer_scheme, **(common | layer_common))
    return Init(scheme, layers=layers, **common)


def validate_init(node: Mapping[str, Any], key_path: str = "init") -> dict[str, Any]:
    """Return a config node as type-checked plain data with all defaults."""
    scheme_node, common, overrides = _split(node, key_path)
    validated = _validate_scheme(scheme_node, key_path)
    layers = {
        name: _validate_layer(validated, override, f"{key_path}.layers.{name}")
        for name, override in overrides.items()
    }
    return {**validated, **_plain(common), "layers": layers}


def scheme_from_config(node: Mapping[str, Any], key_path: str = "init") -> Scheme:
    """Build the scheme of a config node.

    `_target_` names a class, a function that returns a scheme, or a function that samples a weight
    (its first two parameters are called `weight` and `generator`).
    """
    target = locate(node, key_path)
    if _is_bare_function(target):
        return FunctionScheme(target, _function_arguments(target, node, key_path))
    scheme = instantiate(node, key_path)
    if not callable(getattr(scheme, "sample", None)):
        raise ConfigError(
            f"{key_path}.{TARGET}={node[TARGET]}: expected an init scheme, got"
            f" {type(scheme).__name__}, which has no method sample(weight, generator)"
        )
    return scheme


def _validate_scheme(node: Mapping[str, Any], key_path: str) -> dict[str, Any]:
    target = locate(node, key_path)
    if not _is_bare_function(target):
        return validate(node, key_path)
    hints = hints_of(target)
    return {TARGET: node[TARGET]} | {
        name: plain(value, hints[name]) if name in hints else value
        for name, value in _function_arguments(target, node, key_path).items()
    }


def _split(
    node: Mapping[str, Any], key_path: str
) -> tuple[dict[str, Any], dict[str, Any], Mapping[str, Any]]:
    """Split a node into the scheme's keys, `gain` and `bias`, and the per-layer overrides."""
    scheme_node = {key: value for key, value in node.items() if key not in (*COMMON_KEYS, "layers")}
    known = _scheme_arguments(locate(scheme_node, key_path))
    for key in (*COMMON_KEYS, "layers"):
        if key in known:
            raise ConfigError(
                f"{key_path}: {scheme_node[TARGET]} has an argument {key}, which is already a key"
                " of every init scheme; give the argument another name"
            )
    for key in scheme_node:
        if key != TARGET and key not in known:
            suggestion = suggest(str(key), [*known, *COMMON_KEYS, "layers"])
            raise ConfigError(f"{key_path}.{key}: no such key; {suggestion}")
    hint = dict[str, dict[str, Any]]
    layers = check_value(node.get("layers") or {}, hint, f"{key_path}.layers")
    layers = dict(_join_names(layers, (*known, *COMMON_KEYS)))
    return scheme_node, {"gain": 1.0, "bias": None} | _common(node, key_path), layers


def _join_names(
    layers: Mapping[str, Any], keys: Collection[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield (layer name, override), with the names of nested mappings joined by dots.

    `init.layers.block1.conv1.gain=0.5` nests a mapping for each part of the name `block1.conv1`.
    """
    for name, value in layers.items():
        is_nested = isinstance(value, Mapping) and value and not set(value) & {*keys, TARGET}
        if is_nested and all(isinstance(child, Mapping) for child in value.values()):
            yield from _join_names(value, keys, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _common(node: Mapping[str, Any], key_path: str) -> dict[str, Any]:
    common: dict[str, Any] = {}
    if "gain" in node:
        common["gain"] = check_value(node["gain"], FiniteFloat, f"{key_path}.gain")
    if isinstance(node.get("bias"), Mapping):
        common["bias"] = check_value(node["bias"], NormalBias, f"{key_path}.bias")
    elif "bias" in node:
        common["bias"] = check_value(node["bias"], FiniteFloat | None, f"{key_path}.bias")
    return common


def _layer_parts(
    base: Scheme, override: Mapping[str, Any], key_path: str
) -> tuple[Scheme, dict[str, Any]]:
    changes = {key: value for key, value in override.items() if key not in COMMON_KEYS}
    if TARGET in changes:
        return scheme_from_config(changes, key_path), _common(override, key_path)
    return _with_fields(base, changes, key_path), _common(override, key_path)


def _validate_layer(
    validated: Mapping[str, Any], override: Mapping[str, Any], key_path: str
) -> dict[str, Any]:
    _, common = _layer_parts(scheme_from_config(validated, key_path), override, key_path)
    changes = {key: value for key, value in override.items() if key not in COMMON_KEYS}
    if TARGET in changes:
        return _validate_scheme(changes, key_path) | _plain(common)
    changed = _validate_scheme({**validated, **changes}, key_path)
    return {key: changed[key] for key in changes} | _plain(common)


def _with_fields(scheme: Scheme, changes: Mapping[str, Any], key_path: str) -> Scheme:
    """Return a copy of the scheme with some fields changed, checked against their annotations."""
    if not changes:
        return scheme
    if not is_dataclass(scheme) or isinstance(scheme, FunctionScheme):
        raise ConfigError(
            f"{key_path}.{next(iter(changes))}: single arguments can only be changed for a scheme"
            f" that is a dataclass; give {TARGET} and all its arguments for the layer"
        )
    hints = _field_hints(type(scheme))
    known = [field.name for field in fields(scheme) if field.init]
    values = {}
    for key, value in changes.items():
        if key not in known:
            choices = [*known, *COMMON_KEYS, TARGET]
            raise ConfigError(f"{key_path}.{key}: no such key; {suggest(str(key), choices)}")
        values[key] = check_value(value, hints[key], f"{key_path}.{key}")
    try:
        return replace(scheme, **values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key_path}: {error}") from error


@cache
def _field_hints(scheme: type) -> dict[str, Any]:
    return get_type_hints(scheme, include_extras=True)


def _scheme_arguments(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the arguments of a scheme's `_target_` that a config may set."""
    excluded = SAMPLE_PARAMETERS if _is_bare_function(target) else ()
    return {
        name: parameter for name, parameter in arguments(target).items() if name not in excluded
    }


def _is_bare_function(target: Callable[..., Any]) -> bool:
    return inspect.isfunction(target) and tuple(arguments(target))[:2] == SAMPLE_PARAMETERS


def _function_arguments(
    function: Callable[..., Any], node: Mapping[str, Any], key_path: str
) -> dict[str, Any]:
    hints = hints_of(function)
    known = _scheme_arguments(function)
    for key in node:
        if key != TARGET and key not in known:
            raise ConfigError(f"{key_path}.{key}: no such key; {suggest(str(key), known)}")
    values = {}
    for name, parameter in known.items():
        if name not in node and parameter.default is inspect.Parameter.empty:
            raise ConfigError(
                f"{key_path}.{name}: must be given; {node[TARGET]} has no default for it"
            )
        value = node.get(name, parameter.default)
        checked = name in node and name in hints
        values[name] = check_value(value, hints[name], f"{key_path}.{name}") if checked else value
    return values


def _plain(common: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: asdict(value) if isinstance(value, NormalBias) else value
        for key, value in common.items()
    }
