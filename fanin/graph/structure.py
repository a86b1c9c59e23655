"""Nested arguments and results: tuples, lists, dictionaries, slices and dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

Keys = tuple[int | str, ...]


class Entry:
    """Base class of dataclasses that are one entry of a structure."""


def map_structure(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to each entry of a nested structure, and keep the structure.

    Examples
    --------
    >>> map_structure(lambda n: 2 * n, {"a": (1, [2]), "b": 3})
    {'a': (2, [4]), 'b': 6}
    """
    match value:
        case torch.Size():
            return function(value)
        case tuple():
            entries = [map_structure(function, entry) for entry in value]
            if hasattr(value, "_fields"):  # a named tuple
                return type(value)(*entries)
            return tuple(entries) if type(value) is tuple else type(value)(entries)
        case list():
            return [map_structure(function, entry) for entry in value]
        case Mapping():
            return {key: map_structure(function, entry) for key, entry in value.items()}
        case slice():
            return slice(
                *(map_structure(function, e) for e in (value.start, value.stop, value.step))
            )
    if _is_record(value):
        return {
            field.name: map_structure(function, getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    return function(value)


def entries(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield the entries of a nested structure with the keys that lead to them.

    Examples
    --------
    >>> list(entries({"a": (1, [2]), "b": 3}))
    [(('a', 0), 1), (('a', 1, 0), 2), (('b',), 3)]
    """
    match value:
        case torch.Size():
            yield keys, value
        case tuple() | list():
            for i, entry in enumerate(value):
                yield from entries(entry, (*keys, i))
        case Mapping():
            for key, entry in value.items():
                yield from entries(entry, (*keys, key))
        case slice():
            for name in ("start", "stop", "step"):
                yield from entries(getattr(value, name), (*keys, name))
        case _ if _is_record(value):
            for field in dataclasses.fields(value):
                yield from entries(getattr(value, field.name), (*keys, field.name))
        case _:
            yield keys, value


def pick(value: Any, *keys: int | str) -> Any:
    """Return the entry of a nested structure at the keys, as `entries` yields them."""
    for key in keys:
        is_attribute = isinstance(key, str) and not isinstance(value, Mapping)
        value = getattr(value, str(key)) if is_attribute else value[key]
    return value


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type | Entry)
