"""Rows of cells as Arrow tables: numbers as numbers, repeated words as dictionaries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from experiments.result import CellResult

INTEGERS = ("draw", "step", "image", "layer", "count", "index", "attempt", "outcome_step")
FLOATS = ("value", "left", "right", "test_accuracy", "test_loss", "train_loss", "seconds")
WORDS = ("outcome_tensor", "outcome_reason")  # even where all of a part's are null


def tabulate(name: str, results: Sequence[CellResult]) -> pa.Table:
    """One table's rows of some cells; without a column where they have none."""
    if name == "cells":
        keys = list(dict.fromkeys(key for result in results for key in result.row))
        return pa.table({key: _column(key, [r.row.get(key) for r in results]) for key in keys})
    filled = [(r.row["cell_id"], r.tables[name]) for r in results if r.tables.get(name)]
    if not filled:
        return pa.table({})
    lengths = [len(next(iter(columns.values()))) for _, columns in filled]
    ids = [cell for (cell, _), n in zip(filled, lengths, strict=True) for _ in range(n)]
    joined: dict[str, list[Any]] = {"cell_id": ids}
    for key in filled[0][1]:
        joined[key] = [value for _, columns in filled for value in columns[key]]
    return pa.table({key: _column(key, values) for key, values in joined.items()})


def _column(key: str, values: list[Any]) -> pa.Array:
    """Numbers as numbers, words as a dictionary; a mixture of kinds as JSON text."""
    if key in INTEGERS:
        return pa.array(values, pa.int32())
    if key in FLOATS:
        return pa.array(values, pa.float64())
    present = [value for value in values if value is not None]
    if not present and key not in WORDS:
        return pa.nulls(len(values))  # which meets any type that other parts have
    if all(isinstance(value, bool) for value in present) and present:
        return pa.array(values, pa.bool_())
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in present) and present:
        whole = all(isinstance(value, int) for value in present)
        with suppress(OverflowError, pa.ArrowInvalid):  # a number too large for either is words
            return pa.array(values, pa.int64() if whole else pa.float64())
    texts = [
        value if value is None or isinstance(value, str) else json.dumps(value) for value in values
    ]
    return pa.array(texts, pa.string()).dictionary_encode()
