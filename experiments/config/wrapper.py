"""Groups whose options share keys: one mapping holds the option's arguments and the common ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from fanin.errors import ConfigError, nearest
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

W = TypeVar("W")  # a wrapper class


def build_wrapped(wrapper: type[W], node: Mapping[str, Any], where: str) -> W:
    """Make a wrapper: a dataclass whose first field is the option, the others the common keys.

    Raises
    ------
    ConfigError
        A key or a value is wrong.
    """
    option, common = split_wrapped(wrapper, node, where)
    hints = _hints(wrapper)
    values = {key: check_value(v, hints[key], f"{where}.{key}") for key, v in common.items()}
    try:
        return wrapper(**{_option(wrapper): build(option, where)}, **values)
    except ValueError as error:
        raise ConfigError(f"{where}.{error}") from error


def coerce_wrapped(wrapper: type[Any], node: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a wrapper's node as plain typed data, defaults included.

    Raises
    ------
    ConfigError
        As `build_wrapped`.
    """
    option, _ = split_wrapped(wrapper, node, where)
    made = build_wrapped(wrapper, node, where)
    hints = _hints(wrapper)
    common = {key: plain(getattr(made, key), hints[key]) for key in _common(wrapper)}
    return coerce(option, where) | common


def split_wrapped(
    wrapper: type[Any], node: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`split` by the common keys that a wrapper declares."""
    return split(node, _common(wrapper), where)


def _hints(wrapper: Any) -> Mapping[str, Any]:
    return hints_of(wrapper)


def _option(wrapper: type[Any]) -> str:
    return fields(wrapper)[0].name


def _common(wrapper: type[Any]) -> list[str]:
    return [field.name for field in fields(wrapper)[1:]]


def split(
    node: Mapping[str, Any], common: Collection[str], where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide a group's node into its option (to be built) and the keys all options share.

    Raises
    ------
    ConfigError
        A key is neither; the text names both kinds.

    Examples
    --------
    >>> split({"_target_": "fractions.Fraction", "numerator": 3, "gain": 2}, ["gain"], "init")
    ({'_target_': 'fractions.Fraction', 'numerator': 3}, {'gain': 2})
    """
    known = {TARGET, *common, *arguments(locate(node, where))}
    for key in node:
        if key not in known:
            choices = nearest(str(key), known - {TARGET})
            raise ConfigError(f"{where}.{key}: no such key; {choices}")
    option = {key: value for key, value in node.items() if key not in common}
    return option, {key: value for key, value in node.items() if key in common}
