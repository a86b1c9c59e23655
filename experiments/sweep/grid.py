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

NAMED_KEYS = {"question", "source", "criterion", "fixed", "grid", "exclude"}
Size = Literal["small", "paper"]
CHANGES = {"fixed", "grid"}


@dataclass(frozen=True)
class Axis:
    """A name and, for each of its values, what that value assigns."""

    name: str
    values: tuple[Assignment, ...]


@dataclass(frozen=True)
class Grid:
    """The product of axes, less what is excluded."""

    axes: tuple[Axis, ...]
    exclude: tuple[Assignment, ...] = ()
    overridden: bool = False  # by the command line, so that an exclusion may find nothing

    def assignments(self) -> Iterator[Assignment]:
        """Yield every combination of the axes' values, the last axis running fastest.

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


def make_grids(arguments: Sequence[Argument], named: Mapping[str, Any] | None) -> list[Grid]:
    """Return the grids that a command asks for.

    Parameters
    ----------
    arguments
        The command line, without `sweep` and `sweep.*`.
    named
        The named sweep's YAML (`conf/sweep/NAME.yaml`), or None. What the command line sets
        replaces the sweep's axis of that name and overrides the key wherever else it is set.
    """
    given = [Axis(a.key, tuple({a.key: value} for value in a.values)) for a in arguments]
    if named is None:
        return [Grid(tuple(given))]
    named = _checked(named)
    overridden = {axis.name for axis in given}
    fixed = [
        Axis(key, ({key: value},)) for key, value in named["fixed"].items() if key not in overridden
    ]
    return [
        Grid(
            (
                *fixed,
                *(_without(axis, overridden) for axis in _axes(one, overridden)),
                *given,
            ),
            tuple(named["exclude"]),
            overridden=bool(overridden),
        )
        for one in named["grid"]
    ]


def keys_in_sweep(named: Mapping[str, Any]) -> set[str]:
    """Return every key and group that a named sweep's YAML sets, in either size.

    >>> grid = {"optim.lr, seed": [[0.1, 0]], "init": ["zeros", {"init": "normal", "init.std": 1}]}
    >>> sorted(keys_in_sweep({"fixed": {"model": "mlp"}, "grid": grid}))
    ['init', 'init.std', 'model', 'optim.lr', 'seed']
    """
    grids = named.get("grid") or {}
    parts = [named.get("fixed") or {}, *(grids if isinstance(grids, list) else [grids])]
    keys: set[str] = set(keys_in_sweep(named["paper"])) if named.get("paper") else set()
    for part in parts:
        if isinstance(part, Mapping):  # else it is refused when the grid is made
            for axis, values in part.items():
                keys |= {key.strip() for key in str(axis).split(",")}
                for value in values if isinstance(values, list) else []:
                    keys |= set(map(str, value)) if isinstance(value, Mapping) else set()
    return keys


def _checked(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return a named sweep with all keys: `fixed` a mapping, the others lists of mappings."""
    for key in named:
        if key not in NAMED_KEYS:
            near = suggest(str(key), NAMED_KEYS)
            raise ConfigError(f"sweep: a named sweep has no key {key}; {near}")
    grids, excluded = named.get("grid") or {}, named.get("exclude") or []
    return {
        "fixed": _mapping(named.get("fixed") or {}, "fixed"),
        "grid": [_mapping(one, "grid") for one in (grids if isinstance(grids, list) else [grids])],
        "exclude": [
            _mapping(one or None, "exclude")
            for one in (excluded if isinstance(excluded, list) else [excluded])
        ],
    }


def _mapping(value: Any, where: str) -> Assignment:
    if not isinstance(value, Mapping):
        raise ConfigError(f"sweep.{where}: expected keys and their values, got {value!r}")
    return {str(key): inner for key, inner in value.items()}


def _axes(grid: Mapping[str, Any], overridden: set[str]) -> Iterator[Axis]:
    for name, values in grid.items():
        keys = [key.strip() for key in str(name).split(",")]
        if set(keys) <= overridden:
            continue
        listed = _listed(values, str(name))
        yield Axis(str(name), tuple(_value(keys, value, str(name)) for value in listed))


def _without(axis: Axis, overridden: set[str]) -> Axis:
    """Drop the keys that the command line sets from an axis, and what is then there twice."""
    if not any(overridden & assignment.keys() for assignment in axis.values):
        return axis
    kept: list[Assignment] = []
    for assignment in axis.values:
        left = {key: value for key, value in assignment.items() if key not in overridden}
        if left not in kept:
            kept.append(left)
    return Axis(axis.name, tuple(kept))


def _listed(values: Any, name: str) -> list[Any]:
    if isinstance(values, str) and (found := re.fullmatch(r"range\(([-\d,\s]+)\)", values)):
        try:
            values = list(range(*(int(part) for part in found[1].split(","))))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"sweep.grid.{name}: {found[0]}: {error}") from error
    if isinstance(values, list) and values:
        return values
    raise ConfigError(f"sweep.grid.{name}: expected a list of values or 'range(n)', got {values!r}")


def _value(keys: list[str], value: Any, name: str) -> Assignment:
    if len(keys) > 1:
        # Axes that move together: "model.width, optim.lr": [[16, 0.1], [32, 0.05]]
        if not isinstance(value, list) or len(value) != len(keys):
            raise ConfigError(
                f"sweep.grid.{name}: these {len(keys)} keys move together, so each value is a "
                f"list of {len(keys)}, got {value!r}"
            )
        return dict(zip(keys, value, strict=True))
    if isinstance(value, Mapping):
        return _mapping(value, f"grid.{name}")
    return {keys[0]: value}


def select_size(named: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """Return a named sweep's YAML at one size, without its key `paper`.

    Parameters
    ----------
    named
        The YAML. `paper: {fixed: ..., grid: ...}` holds keys and axes that have other values at
        the published size; an axis of that name is replaced in every grid that has it.
    size
        `small`: the YAML as it stands.

    Raises
    ------
    ConfigError
        `paper` was asked for and isn't there, or changes an axis that no grid has.

    Examples
    --------
    >>> named = {"grid": {"seed": [0]}, "paper": {"grid": {"seed": [0, 1]}}}
    >>> select_size(named, "small")["grid"], select_size(named, "paper")["grid"]
    ({'seed': [0]}, {'seed': [0, 1]})
    """
    own = {key: value for key, value in named.items() if key != "paper"}
    if size == "small":
        return own
    if not named.get("paper"):
        raise ConfigError("sweep.size=paper: this sweep has one size only")
    paper = named["paper"]
    for key in paper:
        if key not in CHANGES:
            raise ConfigError(f"sweep.paper: there is no key {key}; {suggest(str(key), CHANGES)}")
    grids = own.get("grid") or {}
    changed = paper.get("grid") or {}
    there = {name for grid in (grids if isinstance(grids, list) else [grids]) for name in grid}
    for axis in changed:
        if axis not in there:
            raise ConfigError(f"sweep.paper.grid: no axis {axis}; {suggest(str(axis), there)}")
    resized = [
        {name: changed.get(name, values) for name, values in grid.items()}
        for grid in (grids if isinstance(grids, list) else [grids])
    ]
    return {
        **own,
        "fixed": {**(own.get("fixed") or {}), **(paper.get("fixed") or {})},
        "grid": resized if isinstance(grids, list) else resized[0],
    }
