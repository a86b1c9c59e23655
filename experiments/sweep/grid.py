"""Grids: axes and their values, from a named sweep's YAML and from the command line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiments.sweep.overrides import Argument
from experiments.sweep.types import Assignment
from fanin.errors import ConfigError, suggest

SWEEP_KEYS = {"question", "source", "scoring", "diagnosis", "fixed", "grid", "exclude"}
Size = Literal["small", "standard", "paper"]
STANDARD: Size = "standard"
OTHER_SIZES: tuple[Size, ...] = ("small", "paper")  # sections of the YAML
SIZE_KEYS = {"fixed", "grid"}


@dataclass(frozen=True)
class Axis:
    """An axis of a grid: its name, and the keys and values that each of its values sets."""

    name: str
    values: tuple[Assignment, ...]


@dataclass(frozen=True)
class Grid:
    """The product of axes, without the excluded combinations.

    `overridden` is True if the command line overrides axes, so that an exclusion may match nothing.
    """

    axes: tuple[Axis, ...]
    exclude: tuple[Assignment, ...] = ()
    overridden: bool = False

    def assignments(self) -> Iterator[Assignment]:
        """Yield every combination of the axes' values; the last axis varies fastest.

        >>> grid = Grid((Axis("a", ({"a": 1}, {"a": 2})), Axis("b", ({"b": 3},))))
        >>> list(grid.assignments())
        [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
        """
        for combination in itertools.product(*(axis.values for axis in self.axes)):
            merged: Assignment = {}
            for assignment in combination:
                for key, value in assignment.items():
                    if key in merged and merged[key] != value:
                        raise ConfigError(
                            f"{key}: two axes of the grid set it, to {merged[key]} and {value}"
                        )
                    merged[key] = value
            yield merged


def make_grids(arguments: Sequence[Argument], definition: Mapping[str, Any] | None) -> list[Grid]:
    """Return the grids of a command.

    Parameters
    ----------
    arguments
        The command line, without `sweep` and `sweep.*`.
    definition
        A named sweep's YAML (`conf/sweep/NAME.yaml`), or None. The command line replaces axes of
        the same name, and overrides the keys that it sets in all other axes.
    """
    cli_axes = [Axis(a.key, tuple({a.key: value} for value in a.values)) for a in arguments]
    if definition is None:
        return [Grid(tuple(cli_axes))]
    definition = _normalize(definition)
    overridden = {axis.name for axis in cli_axes}
    fixed_axes = [
        Axis(key, ({key: value},))
        for key, value in definition["fixed"].items()
        if key not in overridden
    ]
    exclude = tuple(definition["exclude"])
    grids = []
    for grid in definition["grid"]:
        axes = [_drop_keys(axis, overridden) for axis in _axes(grid, overridden)]
        grids.append(Grid((*fixed_axes, *axes, *cli_axes), exclude, overridden=bool(overridden)))
    return grids


def keys_in_sweep(definition: Mapping[str, Any]) -> set[str]:
    """Return every key and group that a named sweep's YAML sets, at any size.

    >>> grid = {"optim.lr, seed": [[0.1, 0]], "init": ["zeros", {"init": "normal", "init.std": 1}]}
    >>> sorted(keys_in_sweep({"fixed": {"model": "mlp"}, "grid": grid}))
    ['init', 'init.std', 'model', 'optim.lr', 'seed']
    """
    grids = definition.get("grid") or {}
    parts = [definition.get("fixed") or {}, *(grids if isinstance(grids, list) else [grids])]
    keys: set[str] = set()
    for size in OTHER_SIZES:
        keys |= keys_in_sweep(definition[size]) if definition.get(size) else set()
    for part in parts:
        if isinstance(part, Mapping):  # make_grids reports other types
            for axis, values in part.items():
                keys |= {key.strip() for key in str(axis).split(",")}
                for value in values if isinstance(values, list) else []:
                    keys |= set(map(str, value)) if isinstance(value, Mapping) else set()
    return keys


def _normalize(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return a definition with the mapping `fixed` and the lists `grid` and `exclude`."""
    for key in definition:
        if key not in SWEEP_KEYS:
            raise ConfigError(
                f"sweep: a named sweep has no key {key}; {suggest(str(key), SWEEP_KEYS)}"
            )
    grids, exclude = definition.get("grid") or {}, definition.get("exclude") or []
    return {
        "fixed": _mapping(definition.get("fixed") or {}, "fixed"),
        "grid": [
            _mapping(grid, "grid") for grid in (grids if isinstance(grids, list) else [grids])
        ],
        "exclude": [
            _mapping(pattern or None, "exclude")
            for pattern in (exclude if isinstance(exclude, list) else [exclude])
        ],
    }


def _mapping(value: Any, key: str) -> Assignment:
    if not isinstance(value, Mapping):
        raise ConfigError(f"sweep.{key}: expected keys and their values, got {value!r}")
    return {str(name): inner for name, inner in value.items()}


def _axes(grid: Mapping[str, Any], overridden: set[str]) -> Iterator[Axis]:
    for name, values in grid.items():
        keys = [key.strip() for key in str(name).split(",")]
        if set(keys) <= overridden:
            continue
        listed = _list_values(values, str(name))
        yield Axis(str(name), tuple(_axis_assignment(keys, value, str(name)) for value in listed))


def _drop_keys(axis: Axis, overridden: set[str]) -> Axis:
    """Drop overridden keys from an axis, and the duplicate values that result."""
    if not any(overridden & assignment.keys() for assignment in axis.values):
        return axis
    values: list[Assignment] = []
    for assignment in axis.values:
        remaining = {key: value for key, value in assignment.items() if key not in overridden}
        if remaining not in values:
            values.append(remaining)
    return Axis(axis.name, tuple(values))


def _list_values(values: Any, name: str) -> list[Any]:
    if isinstance(values, str) and (match := re.fullmatch(r"range\(([-\d,\s]+)\)", values)):
        try:
            values = list(range(*(int(part) for part in match[1].split(","))))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"sweep.grid.{name}: {match[0]}: {error}") from error
    if isinstance(values, list) and values:
        return values
    raise ConfigError(f"sweep.grid.{name}: expected a list of values or 'range(n)', got {values!r}")


def _axis_assignment(keys: list[str], value: Any, name: str) -> Assignment:
    if len(keys) > 1:
        # Keys that vary together: "model.width, optim.lr": [[16, 0.1], [32, 0.05]]
        if not isinstance(value, list) or len(value) != len(keys):
            raise ConfigError(
                f"sweep.grid.{name}: these {len(keys)} keys vary together, so each value must be a "
                f"list of {len(keys)}; got {value!r}"
            )
        return dict(zip(keys, value, strict=True))
    if isinstance(value, Mapping):
        return _mapping(value, f"grid.{name}")
    return {keys[0]: value}


def select_size(definition: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """Return a named sweep's YAML at one size, without its sections `small` and `paper`.

    Parameters
    ----------
    definition
        The YAML. `small: {fixed: ..., grid: ...}` and `paper: {...}` hold the keys and axes that
        have other values at these sizes. An axis is replaced in every grid that has it.
    size
        `standard` (the YAML without these sections), `small` or `paper`.

    Raises
    ------
    ConfigError
        The YAML does not define the size, or the size changes an axis that no grid has.

    Examples
    --------
    >>> definition = {"grid": {"seed": [0]}, "paper": {"grid": {"seed": [0, 1]}}}
    >>> select_size(definition, "standard")["grid"], select_size(definition, "paper")["grid"]
    ({'seed': [0]}, {'seed': [0, 1]})
    """
    standard = {key: value for key, value in definition.items() if key not in OTHER_SIZES}
    if size == STANDARD:
        return standard
    if not definition.get(size):
        sizes = [STANDARD, *(other for other in OTHER_SIZES if definition.get(other))]
        raise ConfigError(
            f"sweep.size={size}: this sweep has only sweep.size={' and '.join(sizes)}"
        )
    section = definition[size]
    for key in section:
        if key not in SIZE_KEYS:
            raise ConfigError(f"sweep.{size}: no key {key}; {suggest(str(key), SIZE_KEYS)}")
    grids = standard.get("grid") or {}
    axes = section.get("grid") or {}
    axis_names = {name for grid in (grids if isinstance(grids, list) else [grids]) for name in grid}
    for axis in axes:
        if axis not in axis_names:
            raise ConfigError(
                f"sweep.{size}.grid: no axis {axis}; {suggest(str(axis), axis_names)}"
            )
    resized = [
        {name: axes.get(name, values) for name, values in grid.items()}
        for grid in (grids if isinstance(grids, list) else [grids])
    ]
    return {
        **standard,
        "fixed": {**(standard.get("fixed") or {}), **(section.get("fixed") or {})},
        "grid": resized if isinstance(grids, list) else resized[0],
    }
