"""Tables as Parquet: immutable parts, each written whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.cell import CellResult
from experiments.errors import DataError
from experiments.sweep.store.journal import read_results, take
from experiments.sweep.store.paths import TABLES, SweepFolder, write_whole, writing

INTEGERS = ("draw", "step", "image", "layer", "count", "attempt", "outcome_step")
FLOATS = ("value", "left", "right", "test_accuracy", "test_loss", "train_loss", "seconds")
WORDS = ("outcome_tensor", "outcome_reason")  # even where all of a part's are null


def commit_journal(folder: SweepFolder, journal: Path) -> None:
    """Take a journal, turn it into parts of the tables, and remove it.

    Parameters
    ----------
    folder
        The sweep's.
    journal
        `STEM.journal`; or a `STEM.taken` whose taker is dead.

    The parts carry the journal's name, so doing it again after a crash halfway changes nothing,
    and where the journal is gone somebody else has taken it: then nothing is written.
    """
    taken = journal if journal.suffix == ".taken" else take(journal)
    if taken is None:
        return
    try:
        results = read_results(taken)
    except FileNotFoundError:
        return
    write_results(folder, taken.stem, results)
    with writing(taken):
        taken.unlink(missing_ok=True)


def write_results(folder: SweepFolder, stem: str, results: Sequence[CellResult]) -> None:
    """Write the parts of a pack, `cells` last: what it has all of its rows."""
    for name in TABLES:
        table = _table(name, results)
        if table.num_rows:
            write_part(folder, name, stem, table)


def read_parts(
    folder: SweepFolder, name: str, columns: Sequence[str] | None = None
) -> list[tuple[str, pa.Table]]:
    """The parts of a table, each with its file's stem (which a pack's tables share).

    Raises
    ------
    DataError
        A part can't be read; it names the file.
    """
    paths = sorted(folder.table(name).glob("*.parquet"))
    return [(path.stem, read_part(path, columns)) for path in paths]


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one part, or some columns of it.

    Raises
    ------
    DataError
        It can't be read; its file is named.
    """
    try:
        return pq.read_table(path, columns=list(columns or []) or None)
    except (pa.ArrowInvalid, OSError) as error:
        pattern = f"{path.parent.parent}/*/{path.name}"
        raise DataError(
            f"{path}: not a readable Parquet file ({error}); move {pattern} away (a pack's parts "
            "belong together) and run the sweep again: it makes those cells anew"
        ) from error


def write_part(folder: SweepFolder, name: str, stem: str, table: pa.Table) -> None:
    """Write one part of a table, whole."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_whole(folder.table(name) / f"{stem}.parquet", sink.getvalue().to_pybytes())


def _table(name: str, results: Sequence[CellResult]) -> pa.Table:
    if not results:
        return pa.table({})
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
