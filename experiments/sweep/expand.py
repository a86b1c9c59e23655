"""Expansion of grids into typed cells, with all keys, values and duplicates checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from experiments.config.catalog import ConfigCatalog, assign, value_at
from experiments.config.groups import CELL_KEYS
from experiments.config.identity import cell_id, hashed_text
from experiments.config.instantiate import TARGET
from experiments.parts_checker import PartsChecker
from experiments.schema import coerce_group, shared_keys, typed_value, with_seeds
from experiments.sweep.differences import full_label
from experiments.sweep.grid import Grid
from experiments.sweep.types import Assignment, Choices, PlannedCell
from experiments.user_code import UserCodeError
from fanin.errors import ConfigError, suggest


def expand(catalog: ConfigCatalog, grids: Iterable[Grid]) -> list[PlannedCell]:
    """Return the cells of all grids.

    Raises
    ------
    ConfigError
        An unknown key or option, a value of the wrong type, incompatible options, a duplicate
        cell, or no cell at all.
    """
    expander = _Expander(catalog)
    cells: dict[str, PlannedCell] = {}
    patterns: dict[str, None] = {}  # an ordered set
    used: set[str] = set()
    for grid in grids:
        if not grid.overridden:
            patterns |= dict.fromkeys(map(full_label, grid.exclude))
        for assignment in grid.assignments():
            # Before the cell is built, because excluded combinations may be invalid.
            matching = [p for p in grid.exclude if expander.matches(assignment, p)]
            if matching:
                used |= {full_label(pattern) for pattern in matching}
                continue
            cell = expander.build(assignment)
            if cell.id in cells:
                raise ConfigError(
                    f"the grid has the same cell twice:\n  {cells[cell.id].label}\n  {cell.label}"
                )
            cells[cell.id] = cell
    unused = [pattern for pattern in patterns if pattern not in used]
    if unused:
        raise ConfigError(f"exclude: no cell of the grid has {unused[0]}")
    if not cells:
        raise ConfigError("the grid has no cells: all are excluded")
    return list(cells.values())


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a cell's config: its coerced value, and its part of the hashed text."""

    value: Any
    text: str


class _Expander:
    """Builder of cells that checks and coerces each distinct set of a group's values once."""

    def __init__(self, catalog: ConfigCatalog) -> None:
        self._catalog = catalog
        self._entries: dict[tuple[str, str, str], _Entry] = {}
        self._default_entries: dict[str, _Entry] = {}
        self._seed_texts: dict[tuple[str, int], str] = {}
        self._names: dict[tuple[str | None, ...], Choices] = {}
        self._checker = PartsChecker()

    def build(self, assignment: Assignment) -> PlannedCell:
        """Return the cell of an assignment."""
        for key in assignment:
            _check_cell_key(key)
        choices = self._choices(assignment)
        group_values = _values_by_group(choices, assignment)
        try:
            entries = {
                group: self._entry(group, choices, group_values.get(group, {}))
                if group in assignment or group in group_values
                else self._default_entry(group, choices)
                for group in CELL_KEYS
            }
            config = with_seeds({group: entry.value for group, entry in entries.items()})
            self._checker.check(config)
        except UserCodeError as error:
            cell = f" (in the cell {full_label(assignment)})" if len(assignment) > 1 else ""
            raise UserCodeError(f"{error}{cell}") from error
        except ConfigError as error:
            cell = f"\n  in the cell {full_label(assignment)}" if len(assignment) > 1 else ""
            raise ConfigError(f"{error}{cell}") from error
        texts = [
            entry.text if config[key] is entry.value else self._seed_text(key, config[key])
            for key, entry in entries.items()
        ]
        # A group whose `_target_` is set no longer has its named option.
        names: Choices = {
            group: "custom" if f"{group}.{TARGET}" in assignment else option
            for group, option in choices.items()
        }
        names = self._names.setdefault(tuple(names.values()), names)  # shared by many cells
        return PlannedCell(cell_id(config, texts), config, names, assignment)

    def matches(self, assignment: Assignment, pattern: Assignment) -> bool:
        """Return True if a cell has, for each key of an exclusion, its value or one of its list."""
        choices = self._choices(assignment)
        # Options first: `{model: plain, model.depth: 10}` must not look up two_layer's depth.
        for key, expected in sorted(pattern.items(), key=lambda item: "." in item[0]):
            _check_cell_key(key)
            alternatives = expected if isinstance(expected, list) else [expected]
            if key in choices:
                for option in alternatives:
                    self._option(key, option)
                actual: Any = choices[key]
            else:
                self._catalog.check_key(key, choices)
                group, _, rest = key.partition(".")
                own_values = _values_by_group(choices, assignment).get(group, {})
                node = self._node(group, choices, own_values)
                actual = typed_value(group, node, rest, value_at(node, rest))
                alternatives = [typed_value(group, node, rest, value) for value in alternatives]
            if actual not in alternatives:
                return False
        return True

    def _choices(self, assignment: Assignment) -> Choices:
        return {
            group: assignment.get(group, option)
            for group, option in self._catalog.defaults.items()
            if group in CELL_KEYS
        }

    def _seed_text(self, key: str, seed: int) -> str:
        """Return the hashed text of a seed that follows `seed`."""
        if (key, seed) not in self._seed_texts:
            self._seed_texts[key, seed] = hashed_text(key, seed)
        return self._seed_texts[key, seed]

    def _default_entry(self, group: str, choices: Choices) -> _Entry:
        """Return the entry of a group that an assignment does not name."""
        if group not in self._default_entries:
            self._default_entries[group] = self._entry(group, choices, {})
        return self._default_entries[group]

    def _entry(self, group: str, choices: Choices, values: Assignment) -> _Entry:
        # As text, because 1 == 1.0 == True in Python.
        cache_key = group, repr(choices.get(group)), repr(values)
        if cache_key not in self._entries:
            value = coerce_group(group, self._node(group, choices, values))
            self._entries[cache_key] = _Entry(value, hashed_text(group, value))
        return self._entries[cache_key]

    def _node(self, group: str, choices: Choices, values: Assignment) -> Any:
        """Return a group's config mapping before coercion."""
        option = choices.get(group)
        node = self._catalog.base[group] if option is None else self._option(group, option)
        retargeted = f"{group}.{TARGET}" in values
        if retargeted:  # keep only the keys that any target of the group accepts
            node = {key: value for key, value in node.items() if key in shared_keys(group)}
        for key, value in values.items():
            if not retargeted:
                self._catalog.check_key(key, choices)
            node = assign(node, key.partition(".")[2], value)
        return node

    def _option(self, group: str, option: Any) -> Any:
        if not isinstance(option, str):
            raise ConfigError(f"{group}={option}: expected the name of an option")
        return self._catalog.node(group, option)


def _values_by_group(choices: Choices, assignment: Assignment) -> dict[str, Assignment]:
    """Return the values that an assignment sets in each group, without the groups' options."""
    by_group: dict[str, Assignment] = {}
    for key, value in assignment.items():
        if "." in key or choices.get(key) is None:
            by_group.setdefault(key.partition(".")[0], {})[key] = value
    return by_group


def _check_cell_key(key: str) -> None:
    group = key.partition(".")[0]
    if group not in CELL_KEYS:
        raise ConfigError(
            f"{key}: not a config key of a cell, so it can't be in a grid; "
            f"{suggest(group, CELL_KEYS)}"
        )
