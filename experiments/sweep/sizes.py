"""A named sweep's two sizes: what its YAML says, and what its `paper` changes of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fanin.errors import ConfigError, nearest

Size = Literal["small", "paper"]
CHANGES = {"fixed", "grid"}


def at_size(named: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """A named sweep's YAML at one size, without its key `paper`.

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
    >>> at_size(named, "small")["grid"], at_size(named, "paper")["grid"]
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
            raise ConfigError(f"sweep.paper: there is no key {key}; {nearest(str(key), CHANGES)}")
    grids = own.get("grid") or {}
    changed = paper.get("grid") or {}
    there = {name for grid in (grids if isinstance(grids, list) else [grids]) for name in grid}
    for axis in changed:
        if axis not in there:
            raise ConfigError(f"sweep.paper.grid: no axis {axis}; {nearest(str(axis), there)}")
    resized = [
        {name: changed.get(name, values) for name, values in grid.items()}
        for grid in (grids if isinstance(grids, list) else [grids])
    ]
    return {
        **own,
        "fixed": {**(own.get("fixed") or {}), **(paper.get("fixed") or {})},
        "grid": resized if isinstance(grids, list) else resized[0],
    }
