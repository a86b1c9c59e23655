"""Short labels for cells: what was asked for, without what all cells of the sweep share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

Asked = Mapping[str, Any]


def short_labels(asked: Mapping[str, Asked]) -> dict[str, str]:
    """Label each cell by the keys whose values differ within the sweep.

    An option stands for itself, without its group; a key is cut to its last word where no other
    key ends on it.

    Parameters
    ----------
    asked
        By cell id, what was asked for: dotted keys and their values.

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
    values: dict[str, set[str]] = {}
    had: Counter[str] = Counter()
    for assignment in asked.values():
        for key, value in assignment.items():
            values.setdefault(key, set()).add(json.dumps(value))
            had[key] += 1
    names = {key: key for key, seen in values.items() if len(seen) > 1 or had[key] < len(asked)}
    last = Counter(key.rpartition(".")[2] for key in names)
    for key in names:
        word = key.rpartition(".")[2]
        if last[word] == 1:
            names[key] = word
    return {
        cell: " ".join(_shown(k, names, v) for k, v in assignment.items() if k in names) or cell
        for cell, assignment in asked.items()
    }


def _shown(key: str, names: Mapping[str, str], value: Any) -> str:
    is_option = isinstance(value, str) and "." not in key and value != "none"
    return value if is_option else f"{names[key]}={value}"
