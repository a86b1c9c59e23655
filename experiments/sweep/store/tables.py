"""Tables of a sweep from its sound parts, and the latest_by_part attempt of each cell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from experiments.sweep.store.journal import Event, journals_in, read_events
from experiments.sweep.store.parquet import decode
from experiments.sweep.store.paths import TABLES, SweepFolder
from experiments.sweep.store.scan import FileProblem, Parts, StoredPack, read_pack, retry_on_race,
scan

COLUMNS = ("cell_id", "outcome", "attempt", "seconds", "outcome_reason")
DONE = ("ok", "diverged")
FAILED = ("error", "oom", "timeout")
INTERRUPTED = ("killed", "node_fail", "cancelled")
NAN = float("nan")
THREADS = 4

T = TypeVar("T")


@dataclass(frozen=True)
class CellState:
    """The latest_by_part attempt of a cell."""

    outcome: str
    attempt: int
    seconds: float
    reason: str | None = None


def read_states(folder: SweepFolder) -> dict[str, CellState]:
    """Return the latest_by_part attempt of every cell that has any, those in journals included.

    Cells of spoilt packs are not there: they are as good as missing.
    """
    # Journals first: one whose pack ends meanwhile is then found among the parts.
    journals = {stem: _events(path) for stem, path in journals_in(folder.journals).items()}
    found = retry_on_race(lambda: scan(folder))
    ended = [
        (
            row["cell_id"],
            row["attempt"],
            CellState(
                row["outcome"], row["attempt"], row.get("seconds", NAN), row.get("outcome_reason")
            ),
        )
        for pack in found.packs.values()
        for row in decode(pack.cells, COLUMNS).to_pylist()
    ]
    known = latest_attempts(ended)
    for stem, events in journals.items():
        if stem in found.packs or stem in found.superseded:
            continue
        attempts = {event.cell_id: int(event.value) for event in events if event.kind == "start"}
        for event in events:
            if event.kind == "done":
                before = known.get(event.cell_id)
                attempt = attempts.get(event.cell_id, before.attempt + 1 if before else 1)
                ended.append((event.cell_id, attempt, CellState(event.value, attempt, NAN)))
    return latest_attempts(ended)


def latest_attempts(attempts: Iterable[tuple[str, int, T]]) -> dict[str, T]:
    """Return what belongs to each cell's latest_by_part attempt; of two with one number, the last counts.

    >>> latest_attempts([("x", 2, "ok"), ("x", 1, "killed"), ("y", 1, "oom"), ("y", 1, "ok")])
    {'x': 'ok', 'y': 'ok'}
    """
    found: dict[str, tuple[int, T]] = {}
    for cell, attempt, what in attempts:
        if cell not in found or attempt >= found[cell][0]:
            found[cell] = attempt, what
    return {cell: what for cell, (_, what) in found.items()}


def _events(journal: Path) -> list[Event]:
    for path in (journal, journal.with_suffix(".taken")):  # it may be taken since the listing
        with suppress(FileNotFoundError):
            return read_events(path)[0]
    return []


def read_tables(
    folder: SweepFolder, names: Sequence[str] = TABLES, columns: Sequence[str] | None = None
) -> tuple[dict[str, Parts], list[FileProblem]]:
    """Read tables, each part in full and verified.

    Parameters
    ----------
    folder
        The sweep's; others may write and merge packs there meanwhile.
    names
        Which tables.
    columns
        Which columns of `cells`; None: all.

    Returns
    -------
    tables, faults
        A pack of which any part is spoilt is in no table. Each file that was passed over is named.
    """
    return retry_on_race(lambda: _read(folder, names, columns))


def latest_by_part(cells: Parts) -> dict[str, list[str]]:
    """Return, for each part, the cells whose latest_by_part attempt it holds (of two, the last part)."""
    rows = (
        (cell, attempt, stem)
        for stem, part in sorted(cells.items())
        for cell, attempt in zip(
            part["cell_id"].to_pylist(), part["attempt"].to_pylist(), strict=True
        )
    )
    found: dict[str, list[str]] = {}
    for cell, stem in latest_attempts(rows).items():
        found.setdefault(stem, []).append(cell)
    return found


def select_rows(part: pa.Table, cells: Iterable[str]) -> pa.Table:
    """Return a part's rows of some cells."""
    ids = part["cell_id"].cast(pa.string())
    return part.filter(pc.is_in(ids, value_set=pa.array(list(cells), pa.string())))


def _read(
    folder: SweepFolder, names: Sequence[str], columns: Sequence[str] | None
) -> tuple[dict[str, Parts], list[FileProblem]]:
    found = scan(folder)
    tables: dict[str, Parts] = {name: {} for name in names}
    faults = list(found.faults)

    def read(pack: StoredPack) -> Parts | FileProblem:
        return read_pack(folder, pack, names, columns)

    with ThreadPoolExecutor(THREADS) as pool:
        for stem, parts in zip(found.packs, pool.map(read, found.packs.values()), strict=True):
            if isinstance(parts, FileProblem):
                faults.append(parts)
                continue
            for name, part in parts.items():
                tables[name][stem] = part
    return tables, faults


def concatenate(parts: Sequence[pa.Table]) -> pa.Table:
    """Concatenate several parts' rows.

    Parameters
    ----------
    parts
        At least one.

    Returns
    -------
    pyarrow.Table
        Columns that a part lacks are null there, and numbers meet as floats. A column of words in
        one part and of numbers in another is words: what was none as JSON, as within one part.
    """
    mixed = _mixed(parts)
    parts = [_wide(_worded(part.replace_schema_metadata(None), mixed)) for part in parts]
    return pa.concat_tables(parts, promote_options="permissive").unify_dictionaries()


def _wide(part: pa.Table) -> pa.Table:
    """Room for all parts' words: pandas numbers those of one in as few bits as it can."""
    for place, field in enumerate(part.schema):
        if pa.types.is_dictionary(field.type) and field.type.index_type != pa.int32():
            kind = pa.dictionary(pa.int32(), field.type.value_type)
            part = part.set_column(place, field.name, part[field.name].cast(kind))
    return part


def _mixed(parts: Sequence[pa.Table]) -> set[str]:
    """Columns of words in one part and of numbers, or of truth values, in another."""
    kinds: dict[str, set[str]] = {}
    for schema in {part.schema for part in parts}:
        for field in schema:
            if not pa.types.is_null(field.type):
                kinds.setdefault(field.name, set()).add(_kind(field.type))
    return {name for name, found in kinds.items() if len(found) > 1}


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "truth"
    return "number" if pa.types.is_primitive(kind) else "word"


def _worded(part: pa.Table, columns: set[str]) -> pa.Table:
    """Turn some columns into words."""
    for name in columns & set(part.column_names):
        column = part[name]
        if _kind(column.type) != "word":
            texts = [None if v is None else json.dumps(v) for v in column.to_pylist()]
            column = pa.array(texts, pa.string()).dictionary_encode()
            part = part.set_column(part.column_names.index(name), name, column)
    return part
