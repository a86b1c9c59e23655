"""What tells a sweep's cells apart, by key, as one would type it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.keys import GROUPS, place
from experiments.config.identity import flatten, scientific

ABSENT = ""  # a key that a cell's option does not have


def words_of(frozen: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Every key that not all cells of a sweep have with one value, seeds aside.

    Parameters
    ----------
    frozen
        Lines of the sweep's `cells.jsonl`.

    Returns
    -------
    pandas.DataFrame
        Index `cell_id`; a column per option group (`init`: `normal`) and per dotted key that
        somebody set (`init.std`: 0.01), in the order in which labels name them. `ABSENT` where a
        cell's option doesn't have the key.
    """
    asked = {(key, _option(line, key)) for line in frozen for key in scientific(line["asked"])}
    rows = {line["cell_id"]: _words(line, asked) for line in frozen}
    _spell_alike(rows.values())
    keys = dict.fromkeys(key for words in rows.values() for key in words)
    varying = [key for key in keys if len({_text(words, key) for words in rows.values()}) > 1]
    columns = {
        key: [words.get(key, ABSENT) for words in rows.values()]
        for key in sorted(varying, key=place)
    }
    return pd.DataFrame(columns, index=pd.Index(rows, name="cell_id"), dtype=object)


def belongs(key: str, to: str) -> bool:
    """Whether a key is a group's, or a group's option itself.

    >>> belongs("init.std", "init"), belongs("init", "init"), belongs("init", "init.std")
    (True, True, False)
    """
    return key == to or key.startswith(f"{to}.")


def last(key: str) -> str:
    """A key without its group: `lr` and `std` say all.

    >>> last("optim.lr"), last("seed_data")
    ('lr', 'seed_data')
    """
    group, _, rest = key.partition(".")
    return rest if group in GROUPS else key


def label(words: Mapping[str, Any]) -> str:
    """One cell's words as a label; all one has to type but the groups' names.

    >>> label({"model": "mlp", "init": "normal", "init.std": 0.01, "init.a": ""})
    'mlp normal std=0.01'
    """
    shown = (
        str(value) if key in GROUPS else f"{last(key)}={value}"
        for key, value in words.items()
        if value != ABSENT
    )
    return " ".join(shown)


def _words(line: Mapping[str, Any], asked: set[tuple[str, Any]]) -> dict[str, Any]:
    words: dict[str, Any] = dict(line["choices"])
    config = dict(flatten(line["config"]))
    own = scientific(line["asked"])
    for key in sorted({key for key, _ in asked if "." in key}):
        if (key, _option(line, key)) in asked:  # somebody set it for this option
            value = own.get(key, config.get(key, ABSENT))
            words[key] = value if isinstance(value, str | int | float) else json.dumps(value)
    return words


def _spell_alike(rows: Iterable[dict[str, Any]]) -> None:
    """One spelling a number: `gain=1` in one command and 1.0 in another are one value."""
    first: dict[Any, Any] = {}
    for words in rows:
        for key, value in words.items():
            words[key] = first.setdefault((key, isinstance(value, bool), value), value)


def _option(line: Mapping[str, Any], key: str) -> Any:
    return line["choices"].get(key.partition(".")[0])


def _text(words: Mapping[str, Any], key: str) -> str:
    return json.dumps(words.get(key, ABSENT))
