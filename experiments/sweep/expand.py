"""From grids to typed cells: every key checked, every value of its type, no cell twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from experiments.config.catalog import ConfigCatalog, assign, value_at
from experiments.config.groups import CELL_KEYS
from experiments.config.instantiate import TARGET
from experiments.schema import PartsChecker, coerce_group, shared_keys, typed_value, with_seeds
from experiments.sweep.differences import full_label
from experiments.sweep.grid import Grid
from experiments.sweep.types import Assignment, Choices, PlannedCell
from fanin.errors import ConfigError, suggest


def expand(space: ConfigCatalog, grids: Iterable[Grid]) -> list[PlannedCell]:
    """Make the cells of all grids.

    Raises
    ------
    ConfigError
        An unknown key or option, a value of the wrong type, parts that don't fit together, a
        cell that is asked for twice, or no cell at all.
    """
    expander = _Expander(space)
    cells: dict[str, PlannedCell] = {}
    patterns: dict[str, None] = {}  # in order
    used: set[str] = set()
    for grid in grids:
        if not grid.overridden:
            patterns |= dict.fromkeys(map(full_label, grid.exclude))
        for assignment in grid.assignments():
            # Before the cell is made: what has no meaning is what people exclude.
            excluding = [p for p in grid.exclude if expander.matches(assignment, p)]
            if excluding:
                used |= {full_label(pattern) for pattern in excluding}
                continue
            cell = expander.cell(assignment)
            if cell.id in cells:
                raise ConfigError(
                    f"the same cell is asked for twice:\n  {cells[cell.id].label}\n  {cell.label}"
                )
            cells[cell.id] = cell
    unused = [pattern for pattern in patterns if pattern not in used]
    if unused:
        raise ConfigError(f"exclude: no cell of the grid has {unused[0]}")
    if not cells:
        raise ConfigError("the grid has no cells: every one is excluded")
    return list(cells.values())


class _Expander:
    """Makes cells; each distinct set of values for a group is checked and typed once."""

    def __init__(self, space: ConfigCatalog) -> None:
        self._space = space
        self._typed: dict[tuple[str, str, str], Any] = {}
        self._parts = PartsChecker()

    def cell(self, assignment: Assignment) -> PlannedCell:
        for key in assignment:
            _check_cell_key(key)
        choices = self._choices(assignment)
        own = _own(choices, assignment)
        try:
            config = with_seeds(
                {group: self._group(group, choices, own.get(group, {})) for group in CELL_KEYS}
            )
            self._parts.check(config)
        except ConfigError as error:
            swept = f"\n  in the cell {full_label(assignment)}" if len(assignment) > 1 else ""
            raise ConfigError(f"{error}{swept}") from error
        # An option whose target was exchanged is that option no longer.
        named: Choices = {
            group: "custom" if f"{group}.{TARGET}" in assignment else option
            for group, option in choices.items()
        }
        return PlannedCell(config, named, assignment)

    def matches(self, assignment: Assignment, pattern: Assignment) -> bool:
        """Return True if a cell would have all the values of an exclusion (a list: any of them)."""
        choices = self._choices(assignment)
        # Options first: `{model: plain, model.depth: 10}` must not ask two_layer for its depth.
        for key, wanted in sorted(pattern.items(), key=lambda item: "." in item[0]):
            _check_cell_key(key)
            alternatives = wanted if isinstance(wanted, list) else [wanted]
            if key in choices:
                for option in alternatives:
                    self._option(key, option)
                found: Any = choices[key]
            else:
                self._space.check_key(key, choices)
                group, _, rest = key.partition(".")
                node = self._node(group, choices, _own(choices, assignment).get(group, {}))
                found = typed_value(group, node, rest, value_at(node, rest))
                alternatives = [typed_value(group, node, rest, value) for value in alternatives]
            if found not in alternatives:
                return False
        return True

    def _choices(self, assignment: Assignment) -> Choices:
        return {
            group: assignment.get(group, option)
            for group, option in self._space.defaults.items()
            if group in CELL_KEYS
        }

    def _group(self, group: str, choices: Choices, own: Assignment) -> Any:
        # As text, in which 1, 1.0 and true are three things.
        memo = group, repr(choices.get(group)), repr(own)
        if memo not in self._typed:
            self._typed[memo] = coerce_group(group, self._node(group, choices, own))
        return self._typed[memo]

    def _node(self, group: str, choices: Choices, own: Assignment) -> Any:
        """Return a group's mapping before it is typed."""
        option = choices.get(group)
        node = self._space.base[group] if option is None else self._option(group, option)
        retargeted = f"{group}.{TARGET}" in own
        if retargeted:  # the option's own keys went with its target; other keys are the new one's
            node = {key: value for key, value in node.items() if key in shared_keys(group)}
        for key, value in own.items():
            if not retargeted:
                self._space.check_key(key, choices)
            node = assign(node, key.partition(".")[2], value)
        return node

    def _option(self, group: str, option: Any) -> Any:
        if not isinstance(option, str):
            raise ConfigError(f"{group}={option}: expected the name of an option")
        return self._space.node(group, option)


def _own(choices: Choices, assignment: Assignment) -> dict[str, Assignment]:
    """Return what an assignment sets in each group, the choice of the group's option aside."""
    own: dict[str, Assignment] = {}
    for key, value in assignment.items():
        if "." in key or choices.get(key) is None:
            own.setdefault(key.partition(".")[0], {})[key] = value
    return own


def _check_cell_key(key: str) -> None:
    group = key.partition(".")[0]
    if group not in CELL_KEYS:
        raise ConfigError(
            f"{key}: not a key of a cell, so it can't be part of a grid; "
            f"{suggest(group, CELL_KEYS)}"
        )
