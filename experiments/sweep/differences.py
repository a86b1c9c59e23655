"""Differences between the cells of a sweep: varying keys, shared values, labels.

A row is a cell or a group of cells: dotted keys and config groups with their values, `{"init":
"normal", "init.std": 0.01}`. Values are compared as JSON, so 1 and 1.0 differ.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
ABSENT = "<absent>"


def varies(values: Iterable[Any]) -> bool:
    """Return True if the values differ; accepts a column of a DataFrame too.

    >>> varies([1, 1.0]), varies([[1], [1]]), varies([])
    (True, False, False)
    """
    return len({_as_json(value) for value in values}) > 1


def varying_keys(rows: Sequence[Row], missing: Any = None) -> list[str]:
    """Return the keys with values that differ between rows, in order of first appearance.

    Parameters
    ----------
    rows
        One mapping per cell.
    missing
        Value to assume for a key that a row lacks.

    Examples
    --------
    >>> varying_keys([{"init": "he", "seed": 0}, {"init": "he", "seed": 1, "optim.lr": 0.1}])
    ['seed', 'optim.lr']
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if varies(row.get(key, missing) for row in rows)]


def shared_values(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the keys that have the same value in all rows.

    >>> shared_values([{"init": "he", "seed": 0}, {"init": "he", "seed": 1}])
    {'init': 'he'}
    """
    first, *rest = [*rows] or [{}]
    texts = {key: _as_json(value) for key, value in first.items()}
    for row in rest:
        texts = {k: text for k, text in texts.items() if k in row and _as_json(row[k]) == text}
    return {key: first[key] for key in texts}


def full_label(row: Row) -> str:
    """Return a row as command-line overrides.

    >>> full_label({"init": "normal", "init.std": 0.01, "train.epochs": None})
    'init=normal init.std=0.01 train.epochs=null'
    """
    # Hydra would read `None` as text.
    texts = {key: "null" if value is None else value for key, value in row.items()}
    return " ".join(f"{key}={text}" for key, text in texts.items()) or "(all defaults)"


def short_label(row: Row, names: Mapping[str, str] | None = None) -> str:
    """Return a row without the names of config groups: `normal std=0.01`.

    Parameters
    ----------
    row
        Values by key. The option of a config group appears without the group's name; other keys
        without a dot, and the option `none`, appear as `key=value`.
    names
        Names to use for some keys. Default: the key without its group.
    """
    known = names or {}
    return " ".join(
        value
        if isinstance(value, str) and "." not in key and value != "none"
        else f"{known.get(key, key.partition('.')[2] or key)}={value}"
        for key, value in row.items()
    )


def short_labels(assignments: Mapping[str, Row]) -> dict[str, str]:
    """Label each cell by the keys that vary within the sweep.

    Options appear without their group, and keys by their last part if that is unique.

    Parameters
    ----------
    assignments
        Assignments by cell id: the dotted keys that were set, and their values.

    Returns
    -------
    dict
        Labels by cell id. The label of a cell that sets no varying key is its id.

    Examples
    --------
    >>> same = {"model": "plain"}
    >>> short_labels({"a": same | {"init": "he", "optim.lr": 1}, "b": same | {"optim.lr": 2}})
    {'a': 'he lr=1', 'b': 'lr=2'}
    """
    keys = varying_keys([*assignments.values()], missing=ABSENT)
    counts = Counter(key.rpartition(".")[2] for key in keys)
    names = {k: last if counts[last := k.rpartition(".")[2]] == 1 else k for k in keys}
    return {
        cell: short_label({k: v for k, v in row.items() if k in names}, names) or cell
        for cell, row in assignments.items()
    }


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
