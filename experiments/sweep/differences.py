"""Differences between the cells of a sweep: varying keys, shared values, labels.

A row is a cell, or a group of cells: dotted keys and config groups with their values, `{"init":
"normal", "init.std": 0.01}`. Two values are the same where their JSON is, so 1 and 1.0 are two.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
ABSENT = "<absent>"


def varies(values: Iterable[Any]) -> bool:
    """Return True if not all values are the same; works for a column of a DataFrame too.

    >>> varies([1, 1.0]), varies([[1], [1]]), varies([])
    (True, False, False)
    """
    return len({_text(value) for value in values}) > 1


def varying_keys(rows: Sequence[Row], missing: Any = None) -> list[str]:
    """Return the keys whose values differ between rows, in the order of their first appearance.

    Parameters
    ----------
    rows
        One mapping per cell.
    missing
        The value of a key that a row lacks.

    Examples
    --------
    >>> varying_keys([{"init": "he", "seed": 0}, {"init": "he", "seed": 1, "optim.lr": 0.1}])
    ['seed', 'optim.lr']
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if varies(row.get(key, missing) for row in rows)]


def shared_values(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the keys that all rows have with one value.

    >>> shared_values([{"init": "he", "seed": 0}, {"init": "he", "seed": 1}])
    {'init': 'he'}
    """
    first, *others = [*rows] or [{}]
    texts = {key: _text(value) for key, value in first.items()}
    for row in others:
        texts = {k: text for k, text in texts.items() if k in row and _text(row[k]) == text}
    return {key: first[key] for key in texts}


def full_label(row: Row) -> str:
    """Return a row as one would type it.

    >>> full_label({"init": "normal", "init.std": 0.01})
    'init=normal init.std=0.01'
    """
    return " ".join(f"{key}={value}" for key, value in row.items()) or "(all defaults)"


def short_label(row: Row, names: Mapping[str, str] | None = None) -> str:
    """Return a row without the names of config groups: `normal std=0.01`.

    Parameters
    ----------
    row
        A config group's value is the name of an option; a key without a dot whose value is no
        text, or `none`, is shown with its name.
    names
        How to write some keys. Others are written without their group.
    """
    known = names or {}
    return " ".join(
        value
        if isinstance(value, str) and "." not in key and value != "none"
        else f"{known.get(key, key.partition('.')[2] or key)}={value}"
        for key, value in row.items()
    )


def short_labels(asked: Mapping[str, Row]) -> dict[str, str]:
    """Label each cell by the keys whose values differ within the sweep.

    An option stands for itself, without its group; a key is cut to its last word where no other
    key ends on it.

    Parameters
    ----------
    asked
        By cell id, the dotted keys that were set and their values.

    Returns
    -------
    dict
        By cell id. A cell that nothing tells from the others has its id for a label.

    Examples
    --------
    >>> same = {"model": "plain"}
    >>> short_labels({"a": same | {"init": "he", "optim.lr": 1}, "b": same | {"optim.lr": 2}})
    {'a': 'he lr=1', 'b': 'lr=2'}
    """
    keys = varying_keys([*asked.values()], missing=ABSENT)
    last = Counter(key.rpartition(".")[2] for key in keys)
    names = {k: word if last[word := k.rpartition(".")[2]] == 1 else k for k in keys}
    return {
        cell: short_label({k: v for k, v in row.items() if k in names}, names) or cell
        for cell, row in asked.items()
    }


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
