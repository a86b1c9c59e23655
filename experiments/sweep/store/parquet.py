"""Tables as Parquet: immutable parts, each written whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.cell import CellResult
from experiments.errors import DataError
from experiments.sweep.store.journal import read_results
from experiments.sweep.store.paths import TABLES, SweepFolder, write_whole

INTEGERS = ("draw", "step", "image", "layer", "count", "attempt", "outcome_step")


def commit_journal(folder: SweepFolder, journal: Path) -> None:
    """Turn a journal into parts of the tables, then remove it.

    The parts carry the journal's name, so doing it again after a crash halfway changes nothing.
    """
    results = read_results(journal)
    if results:
        for name in TABLES:
            table = _table(name, results)
            if table.num_rows:
                write_part(folder, name, journal.stem, table)
    journal.unlink()


def read_parts(
    folder: SweepFolder, name: str, columns: Sequence[str] | None = None
) -> list[tuple[str, pa.Table]]:
    """The parts of a table, each with its file's stem (which a pack's tables share).

    Raises
    ------
    DataError
        A part can't be read; it names the file.
    """
    parts = []
    for path in sorted(folder.table(name).glob("*.parquet")):
        try:
            parts.append((path.stem, pq.read_table(path, columns=list(columns or []) or None)))
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{path}: not a readable Parquet file ({error}); move it away and run the sweep "
                "again: its cells will be run again"
            ) from error
    return parts


def write_part(folder: SweepFolder, name: str, stem: str, table: pa.Table) -> None:
    """Write one part of a table, whole."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_whole(folder.table(name) / f"{stem}.parquet", sink.getvalue().to_pybytes())


def _table(name: str, results: Sequence[CellResult]) -> pa.Table:
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
    present = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in present) and present:
        return pa.array(values, pa.bool_())
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in present) and present:
        whole = all(isinstance(value, int) for value in present)
        return pa.array(values, pa.int64() if whole else pa.float64())
    texts = [
        value if value is None or isinstance(value, str) else json.dumps(value) for value in values
    ]
    return pa.array(texts, pa.string()).dictionary_encode()
