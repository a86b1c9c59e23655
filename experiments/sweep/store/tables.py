"""Tables of a sweep, read from its valid parts, and the latest attempt of each cell."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from experiments.sweep.store.journal import Event, journals_in, read_events
from experiments.sweep.store.parquet import decode
from experiments.sweep.store.paths import TABLES, SweepFolder
from experiments.sweep.store.scan import (
    FileProblem,
    Parts,
    read_pack,
    retry_on_race,
    scan,
)

METRICS = ("test_accuracy", "test_loss", "train_loss")
COLUMNS = ("cell_id", "outcome", "attempt", "seconds", "outcome_reason", "outcome_step", *METRICS)
DONE = ("ok", "diverged")
FAILED = ("error", "oom", "timeout")
INTERRUPTED = ("killed", "node_fail", "cancelled")
NAN = float("nan")
THREADS = 2  # half of the time of a small part is Python, of which one thread runs at a time

T = TypeVar("T")


@dataclass(frozen=True)
class CellState:
    """The latest attempt of a cell. Metrics and `step` (of divergence) are None if unknown.

    `stored` is False if only a journal has the result, so that no table shows it yet.
    """

    outcome: str
    attempt: int
    seconds: float
    reason: str | None = None
    step: int | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    train_loss: float | None = None
    stored: bool = True


def read_states(folder: SweepFolder) -> dict[str, CellState]:
    """Return the latest attempt of every cell that has one in a table or a journal.

    Cells of damaged packs count as missing.
    """
    # Read the journals first: a pack that ends during this call is then found among the parts.
    journals = {stem: _read_events(path) for stem, path in journals_in(folder.journals).items()}
    stored = retry_on_race(lambda: scan(folder))
    attempts = [
        (row["cell_id"], row["attempt"], _state(row))
        for pack in stored.packs.values()
        for row in decode(pack.cells, COLUMNS).to_pylist()
    ]
    states = latest_attempts(attempts)
    for stem, events in journals.items():
        if stem in stored.packs or stem in stored.superseded:
            continue
        started = {event.cell_id: int(event.value) for event in events if event.kind == "start"}
        for event in events:
            if event.kind == "done":
                previous = states.get(event.cell_id)
                attempt = started.get(event.cell_id, previous.attempt + 1 if previous else 1)
                state = CellState(event.value, attempt, NAN, stored=False)
                attempts.append((event.cell_id, attempt, state))
    return latest_attempts(attempts)


def _state(row: Mapping[str, Any]) -> CellState:
    metrics: dict[str, Any] = {
        key: None if (value := row.get(key)) is None or math.isnan(value) else value
        for key in METRICS
    }
    step = row.get("outcome_step")
    return CellState(
        row["outcome"],
        row["attempt"],
        row.get("seconds", NAN),
        row.get("outcome_reason"),
        None if step is None or math.isnan(step) else int(step),
        **metrics,
    )


def latest_attempts(attempts: Iterable[tuple[str, int, T]]) -> dict[str, T]:
    """Return the value of each cell's latest attempt; of attempts with equal numbers, the last one.

    >>> latest_attempts([("x", 2, "ok"), ("x", 1, "killed"), ("y", 1, "oom"), ("y", 1, "ok")])
    {'x': 'ok', 'y': 'ok'}
    """
    latest: dict[str, tuple[int, T]] = {}
    for cell, attempt, value in attempts:
        if cell not in latest or attempt >= latest[cell][0]:
            latest[cell] = attempt, value
    return {cell: value for cell, (_, value) in latest.items()}


def _read_events(journal: Path) -> list[Event]:
    for path in (journal, journal.with_suffix(".taken")):  # it may be renamed after the listing
        with suppress(FileNotFoundError):
            return read_events(path)[0]
    return []


def read_tables(
    folder: SweepFolder, names: Sequence[str] = TABLES, columns: Sequence[str] | None = None
) -> tuple[dict[str, Parts], list[FileProblem]]:
    """Read tables and verify every part (the file of one pack in one table).

    Parameters
    ----------
    folder
        Folder of the sweep. Other processes may write and merge packs at the same time.
    names
        Names of the tables.
    columns
        Columns of `cells`. None: all.

    Returns
    -------
    tables, problems
        The parts of each table, except those of damaged packs; and the files that were left out.
    """
    return retry_on_race(lambda: _read_tables(folder, names, columns))


def latest_by_part(cells: Parts) -> dict[str, list[str]]:
    """Return, for each part, the cells whose latest attempt is in it."""
    rows = (
        (cell, attempt, stem)
        for stem, part in sorted(cells.items())
        for cell, attempt in zip(
            part["cell_id"].to_pylist(), part["attempt"].to_pylist(), strict=True
        )
    )
    by_part: dict[str, list[str]] = {}
    for cell, stem in latest_attempts(rows).items():
        by_part.setdefault(stem, []).append(cell)
    return by_part


def select_rows(part: pa.Table, cells: Iterable[str]) -> pa.Table:
    """Return the rows of the given cells."""
    import pyarrow.compute as pc  # loads slowly; commands that only read states don't need it

    ids = part["cell_id"].cast(pa.string())
    return part.filter(pc.is_in(ids, value_set=pa.array(list(cells), pa.string())))


def _read_tables(
    folder: SweepFolder, names: Sequence[str], columns: Sequence[str] | None
) -> tuple[dict[str, Parts], list[FileProblem]]:
    stored = scan(folder)
    tables: dict[str, Parts] = {name: {} for name in names}
    problems = list(stored.problems)

    def read(names: Sequence[str]) -> list[Parts | FileProblem]:
        packs = stored.packs.values()
        return list(pool.map(lambda pack: read_pack(folder, pack, names, columns), packs))

    with ThreadPoolExecutor(THREADS) as pool:
        cells = read([name for name in names if name == "cells"])
        with system_allocator():
            details = read([name for name in names if name != "cells"])
    for stem, rows, detail_rows in zip(stored.packs, cells, details, strict=True):
        if isinstance(rows, FileProblem):
            problems.append(rows)
        elif isinstance(detail_rows, FileProblem):
            problems.append(detail_rows)
        else:
            for name, part in {**rows, **detail_rows}.items():
                tables[name][stem] = part
    return tables, problems


@contextmanager
def system_allocator() -> Iterator[None]:
    """Make Arrow use the system allocator, for large tables.

    Arrow's own allocator returns freed memory to the system. With many large parts, requesting that
    memory again takes longer than the rest of a read. For the many small columns of `cells`, it is
    faster.
    """
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def concatenate(parts: Sequence[pa.Table]) -> pa.Table:
    """Concatenate the rows of parts with different columns.

    Parameters
    ----------
    parts
        At least one part.

    Returns
    -------
    pyarrow.Table
        Columns that a part lacks are null in its rows. Integers and floats become floats. A column
        of strings in one part and of numbers in another becomes strings, with the numbers as JSON,
        as within one part.
    """
    parts = [part.replace_schema_metadata(None) for part in parts]  # differs between packs
    mixed = _mixed_columns(parts)
    parts = [_widen_dictionaries(_to_strings(part, mixed)) for part in parts]
    return pa.concat_tables(parts, promote_options="permissive").unify_dictionaries()


def _widen_dictionaries(part: pa.Table) -> pa.Table:
    """Index dictionary columns with int32, so that they hold the strings of all parts.

    pandas uses as few bits as the strings of one part need.
    """
    for position, field in enumerate(part.schema):
        if pa.types.is_dictionary(field.type) and field.type.index_type != pa.int32():
            wide = pa.dictionary(pa.int32(), field.type.value_type)
            part = part.set_column(position, field.name, part[field.name].cast(wide))
    return part


def _mixed_columns(parts: Sequence[pa.Table]) -> set[str]:
    """Return the columns with different kinds (string, number, boolean) in different parts."""
    kinds: dict[str, set[str]] = {}
    for schema in {part.schema for part in parts}:
        for field in schema:
            if not pa.types.is_null(field.type):
                kinds.setdefault(field.name, set()).add(_kind(field.type))
    return {name for name, column_kinds in kinds.items() if len(column_kinds) > 1}


def _kind(data_type: pa.DataType) -> str:
    if pa.types.is_boolean(data_type):
        return "boolean"
    return "number" if pa.types.is_primitive(data_type) else "string"


def _to_strings(part: pa.Table, columns: set[str]) -> pa.Table:
    """Convert columns to strings, as JSON."""
    for name in columns & set(part.column_names):
        column = part[name]
        if _kind(column.type) != "string":
            texts = [None if value is None else json.dumps(value) for value in column.to_pylist()]
            column = pa.array(texts, pa.string()).dictionary_encode()
            part = part.set_column(part.column_names.index(name), name, column)
    return part
