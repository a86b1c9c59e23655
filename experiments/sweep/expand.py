"""From grids to typed cells: every key checked, every value of its type, no cell twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from experiments.config.identity import cell_id, flatten
from experiments.config.schema import CELL_KEYS, SEEDS, PartsChecker, coerce_group, with_seeds
from experiments.config.space import Space, assign, has_key
from experiments.errors import ConfigError
from experiments.sweep.grid import Assignment, Grid

Choices = dict[str, str | None]


@dataclass(frozen=True)
class PlannedCell:
    """A cell before it runs: its coerced config and the options that it was made of."""

    config: dict[str, Any]
    choices: Choices
    assignment: Assignment

    @cached_property
    def id(self) -> str:
        """The cell's identity."""
        return cell_id(self.config)

    @property
    def label(self) -> str:
        """What was asked for, as one would type it."""
        return label(self.assignment)


def label(assignment: Assignment) -> str:
    """An assignment as one would type it.

    >>> label({"init": "normal", "init.std": 0.01})
    'init=normal init.std=0.01'
    """
    return " ".join(f"{key}={value}" for key, value in assignment.items()) or "(all defaults)"


def expand(space: Space, grids: Iterable[Grid]) -> list[PlannedCell]:
    """Make the cells of all grids.

    Raises
    ------
    ConfigError
        An unknown key or option, a value of the wrong type, parts that don't fit together, a
        cell that is asked for twice, or no cell at all.
    """
    expander = _Expander(space)
    cells: dict[str, PlannedCell] = {}
    for grid in grids:
        for assignment in grid.assignments():
            cell = expander.cell(assignment)
            if any(expander.matches(cell, excluded) for excluded in grid.exclude):
                continue
            if cell.id in cells:
                raise ConfigError(
                    f"the same cell is asked for twice:\n  {cells[cell.id].label}\n  {cell.label}"
                )
            cells[cell.id] = cell
    if not cells:
        raise ConfigError("the grid has no cells: every one is excluded")
    return list(cells.values())


class _Expander:
    """Makes cells; each distinct set of values for a group is checked and typed once."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._typed: dict[str, Any] = {}
        self._parts = PartsChecker()

    def cell(self, assignment: Assignment) -> PlannedCell:
        defaults = self._space.defaults
        groups = {key: value for key, value in assignment.items() if key in defaults}
        for key in assignment:
            if key.partition(".")[0] not in CELL_KEYS:
                raise ConfigError(f"{key}: not a key of a cell, so it can't be part of a grid")
        choices = {
            group: groups.get(group, option)
            for group, option in defaults.items()
            if group in CELL_KEYS
        }
        try:
            config = with_seeds(
                {group: self._group(group, choices, assignment) for group in CELL_KEYS}
            )
            self._parts.check(config)
        except ConfigError as error:
            swept = f"\n  in the cell {label(assignment)}" if len(assignment) > 1 else ""
            raise ConfigError(f"{error}{swept}") from error
        return PlannedCell(config, choices, assignment)

    def _group(self, group: str, choices: Mapping[str, Any], assignment: Assignment) -> Any:
        option = choices.get(group)
        own = {
            key: value
            for key, value in assignment.items()
            if key.startswith(f"{group}.") or (key == group and option is None)
        }
        memo = json.dumps([group, option, own], default=str)
        if memo not in self._typed:
            node = self._space.base[group] if option is None else self._option(group, option)
            for key, value in own.items():
                self._space.check_key(key, choices)
                node = assign(node, key.partition(".")[2], value)
            self._typed[memo] = coerce_group(group, node)
        return self._typed[memo]

    def _option(self, group: str, option: Any) -> Any:
        if not isinstance(option, str):
            raise ConfigError(f"{group}={option}: expected the name of an option")
        return self._space.node(group, option)

    def matches(self, cell: PlannedCell, pattern: Assignment) -> bool:
        """Whether a cell has all the values of an exclusion (a list: any of them)."""
        # Options first: `{model: plain, model.depth: 10}` must not ask two_layer for its depth.
        for key, wanted in sorted(pattern.items(), key=lambda item: "." in item[0]):
            if key in cell.choices:
                found: Any = cell.choices[key]
            elif key in SEEDS or has_key(cell.config, key):
                found = dict(flatten(cell.config)).get(key)
            else:
                self._space.check_key(key, cell.choices)
                return False
            if found not in (wanted if isinstance(wanted, list) else [wanted]):
                return False
        return True
