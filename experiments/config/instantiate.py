"""Type-check and instantiate config nodes with `_target_`; the target's annotations are the schema.

Every option under `conf/` names a class (or any callable) in `_target_`; the other keys are its
arguments. `validate` checks them against the annotations, fills in defaults and returns plain
data. `instantiate` returns the object. Classes outside this repository work the same way.
"""

from __future__ import annotations

import collections.abc
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from experiments.config.import_target import hidden_file, import_target
from experiments.config.trust import TARGET, check_target
from experiments.user_code import user_code_error
from fanin.errors import ConfigError, FaninError, suggest

MISSING = "???"  # OmegaConf's marker of a mandatory value
# Messages instead of pydantic's, by its type of error.
EXPECTED = {
    "tuple_type": "expected a list, such as [a,b]",
    "list_type": "expected a list, such as [a,b]",
    "dict_type": "expected a mapping, such as {key: value}",
    "mapping_type": "expected a mapping, such as {key: value}",
    **dict.fromkeys(["float_parsing", "float_type"], "expected a number"),
    **dict.fromkeys(["int_parsing", "int_type", "int_from_float"], "expected a whole number"),
    **dict.fromkeys(["bool_parsing", "bool_type"], "expected true or false"),
    "string_type": "expected a text",
}

W = TypeVar("W")  # a wrapper class
Target = Callable[..., Any]
Adapt = Callable[[Target], Target]
"""Function that adapts the user's own targets to a group (`experiments/adapters.py`)."""


def unchanged(target: Target) -> Target:
    """Return the target."""
    return target


def instantiate(node: Mapping[str, Any], key_path: str = "", adapt: Adapt = unchanged) -> Any:
    """Type-check a config node and call its `_target_`.

    Parameters
    ----------
    node
        Mapping with `_target_` (the dotted name of a class or function) and its arguments.
    key_path
        The node's dotted key, for error messages.
    adapt
        Adapter of the target.

    Raises
    ------
    ConfigError
        The target cannot be imported, a key is none of its arguments, or a value has the wrong
        type.

    Examples
    --------
    >>> instantiate({"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2})
    Fraction(1, 2)
    """
    target = locate(node, key_path, adapt)
    values = _checked(target, node, key_path)
    try:
        return target(**values)
    except FaninError:
        raise
    except Exception as error:  # a user's target may raise anything
        raise user_code_error(key_path or str(node[TARGET]), error) from error


def validate(
    node: Mapping[str, Any], key_path: str = "", adapt: Adapt = unchanged
) -> dict[str, Any]:
    """Return a node as type-checked plain data with all defaults."""
    target = locate(node, key_path, adapt)
    values = _checked(target, node, key_path)
    hints = hints_of(target)
    return {TARGET: node[TARGET]} | {
        name: plain(value, hints[name]) if name in hints else value
        for name, value in values.items()
    }


def _checked(target: Target, node: Mapping[str, Any], key_path: str) -> dict[str, Any]:
    prefix = f"{key_path}." if key_path else ""
    known = arguments(target)
    for key in node:
        if key != TARGET and key not in known:
            raise ConfigError(f"{prefix}{key}: no such key; {suggest(str(key), known)}")
    hints = hints_of(target)
    values = {}
    for name, parameter in known.items():
        if name not in node:
            if parameter.default is inspect.Parameter.empty:
                raise ConfigError(
                    f"{prefix}{name}: must be given; {node[TARGET]} has no default for it"
                )
            values[name] = parameter.default
        elif name in hints:
            values[name] = check_value(node[name], hints[name], f"{prefix}{name}")
        else:
            values[name] = node[name]
    return values


def instantiate_wrapped(wrapper: Callable[..., W], node: Mapping[str, Any], key_path: str) -> W:
    """Instantiate a wrapper: a dataclass that holds an option (first field) and the common keys.

    Groups with keys common to all options (`data.n_train`) have a wrapper. Their nodes contain the
    option's arguments and the common keys side by side.
    """
    option, common = split_wrapped(wrapper, node, key_path)
    hints = hints_of(wrapper)
    values = {key: check_value(v, hints[key], f"{key_path}.{key}") for key, v in common.items()}
    try:
        return wrapper(**{_option(wrapper): instantiate(option, key_path)}, **values)
    except ValueError as error:
        raise ConfigError(f"{key_path}.{error}") from error


def validate_wrapped(
    wrapper: Callable[..., Any], node: Mapping[str, Any], key_path: str
) -> dict[str, Any]:
    """Return a wrapper's node as type-checked plain data with all defaults."""
    option, _ = split_wrapped(wrapper, node, key_path)
    wrapped = instantiate_wrapped(wrapper, node, key_path)
    hints = hints_of(wrapper)
    common = {key: plain(getattr(wrapped, key), hints[key]) for key in common_keys(wrapper)}
    return validate(option, key_path) | common


def split_wrapped(
    wrapper: Callable[..., Any], node: Mapping[str, Any], key_path: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a node into the option's node and the keys common to all options."""
    common = common_keys(wrapper)
    known = {TARGET, *common, *arguments(locate(node, key_path))}
    for key in node:
        if key not in known:
            choices = suggest(str(key), known - {TARGET})
            raise ConfigError(f"{key_path}.{key}: no such key; {choices}")
    option = {key: value for key, value in node.items() if key not in common}
    return option, {key: value for key, value in node.items() if key in common}


def common_keys(wrapper: Any) -> list[str]:
    """Return the keys that a wrapper adds to those of its options."""
    return [field.name for field in fields(wrapper)[1:]]


def _option(wrapper: Any) -> str:
    return fields(wrapper)[0].name


def locate(node: Mapping[str, Any], key_path: str, adapt: Adapt = unchanged) -> Target:
    """Import the object that `_target_` names, and adapt it."""
    name = node.get(TARGET)
    if not isinstance(name, str) or not re.fullmatch(r"\w+(\.\w+)+", name):
        if name == MISSING:
            raise ConfigError(f"{key_path}: must be given: {key_path}.{TARGET}=package.module.Name")
        raise ConfigError(f"{key_path}.{TARGET}: expected package.module.Name, got {name!r}")
    check_target(name, key_path)
    module_name, _, attribute = name.rpartition(".")
    module = import_target(module_name, f"{key_path}.{TARGET}={name}")
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        hidden = hidden_file(module)
        reason = f"{hidden}; rename your file" if hidden else suggest(attribute, public)
        raise ConfigError(f"{key_path}.{TARGET}: {module_name} has no {attribute}; {reason}")
    target: Target = getattr(module, attribute)
    if not callable(target):
        raise ConfigError(f"{key_path}.{TARGET}={name}: not a class or function")
    return adapt(target)


@cache
def arguments(target: Target) -> Mapping[str, inspect.Parameter]:
    """Return the parameters that can be passed to a target by keyword."""
    try:
        parameters = inspect.signature(target).parameters
    except ValueError as error:  # some builtins have none
        raise ConfigError(
            f"{target}: can't read the names of its arguments; wrap it in a class"
        ) from error
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return MappingProxyType(
        {name: parameter for name, parameter in parameters.items() if parameter.kind in kinds}
    )


@cache
def hints_of(target: Target) -> Mapping[str, Any]:
    """Return the annotations of a target's parameters."""
    try:
        hints = get_type_hints(_annotated(target), include_extras=True)
    except NameError as error:
        name = getattr(target, "__qualname__", target)
        raise ConfigError(
            f"{name}: can't read its annotations ({error}); import these names at run time, not "
            "only under TYPE_CHECKING"
        ) from error
    return MappingProxyType({name: hints[name] for name in arguments(target) if name in hints})


def _annotated(target: Target) -> Any:
    """Return the object that holds a target's annotations."""
    if not inspect.isclass(target):
        return target
    owner = next(base for base in target.__mro__ if "__init__" in vars(base))
    # A generated dataclass `__init__` has the annotations of all base classes as text, which can
    # only be resolved in the modules they come from. `get_type_hints(owner)` does that.
    generated = "__dataclass_params__" in vars(owner) and vars(owner)["__dataclass_params__"].init
    return owner if generated else target.__init__


def check_value(value: Any, hint: Any, key_path: str) -> Any:
    """Return `value` as the annotated type; raise ConfigError if it has another type."""
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        # pydantic would ignore unknown keys.
        return instantiate({TARGET: f"{hint.__module__}.{hint.__qualname__}", **value}, key_path)
    if value == MISSING:
        raise ConfigError(f"{key_path}: must be given ({describe(hint)})")
    if isinstance(value, bool) and not _admits(hint, bool):
        raise ConfigError(f"{key_path}: expected {describe(hint)}, got {value}")
    try:
        return _adapter(hint).validate_python(value)
    except ValidationError as error:
        if wrong := [e["input"] for e in error.errors() if e["type"] == "literal_error"]:
            suggestion = suggest(str(wrong[0]), _choices(hint))
            raise ConfigError(f"{key_path}: invalid value {wrong[0]!r}; {suggestion}") from error
        is_mapping = get_origin(hint) in (dict, collections.abc.Mapping)
        reasons = "; ".join(dict.fromkeys(_reason(e, key_path, is_mapping) for e in error.errors()))
        got = "null" if value is None else shortened(repr(value))
        raise ConfigError(f"{reasons}, got {got}") from error


def shortened(text: str) -> str:
    """Shorten a text to 100 characters."""
    return text if len(text) <= 100 else f"{text[:97]}..."


def describe(hint: Any) -> str:
    """Describe a type in plain English, for error messages.

    >>> describe(float | None)
    'a number or null'
    """
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
    if get_origin(hint) is Annotated:
        return describe(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(describe(part) for part in get_args(hint))
    if hint is type(None):
        return "null"
    return names.get(hint) or str(getattr(hint, "__name__", hint))


def plain(value: Any, hint: Any) -> Any:
    """Convert a checked value to plain data: numbers, strings, lists and mappings."""
    return _adapter(hint).dump_python(value, mode="json")


def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        hash(hint)
    except TypeError:  # the metadata of an `Annotated` may be unhashable
        return _new_adapter(hint)
    return _cached_adapter(hint)


def _new_adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint)
    except PydanticSchemaGenerationError as error:
        raise ConfigError(
            f"an argument of type {describe(hint)} can't be set from a config"
        ) from error


_cached_adapter = cache(_new_adapter)


def _admits(hint: Any, kind: type) -> bool:
    return hint is kind or hint is Any or any(_admits(part, kind) for part in get_args(hint))


def _choices(hint: Any) -> list[str]:
    """Return the values of all `Literal`s in an annotation."""
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    return [choice for part in get_args(hint) for choice in _choices(part)]


def _reason(error: Any, key_path: str, is_mapping: bool) -> str:
    """Return one of pydantic's messages, prefixed by the key or item that is wrong."""
    parts = [str(part) for part in error["loc"] if is_mapping or isinstance(part, int)]
    if is_mapping:
        key_path = ".".join([key_path, *parts])
    elif parts:
        key_path = f"{key_path}: item {'.'.join(parts)}"
    message = EXPECTED.get(error["type"], error["msg"].removeprefix("Value error, "))
    return f"{key_path}: {message}"
