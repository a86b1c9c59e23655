"""Tables as Parquet: immutable parts, each written whole.

A pack's `cells` part vouches for itself, its sibling parts, and packs it replaces: its manifest
is kept in the Parquet schema metadata. The part's own checksum can't be known before its bytes are:
it is put in last, over eight zeros that it was computed with.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.atomic_write import atomic_write, sync_folder, writing
from experiments.result import CellResult
from experiments.sweep.store.journal import read_results, take_journal
from experiments.sweep.store.paths import DETAIL_TABLES, SweepFolder
from fanin.errors import DataError

PACK, OWN = b"fanin.pack", b"fanin.checksum"
DIGITS = 8
CHECKSUM = re.compile(rb"crc32=([0-9a-f]{%d})" % DIGITS)
ZEROS = b"0" * DIGITS
ROW_GROUP = 1 << 20  # rows
INTEGERS = ("draw", "step", "image", "layer", "count", "index", "attempt", "outcome_step")
FLOATS = ("value", "left", "right", "test_accuracy", "test_loss", "train_loss", "seconds")
WORDS = ("outcome_tensor", "outcome_reason")  # even where all of a part's are null


def commit_journal(folder: SweepFolder, journal: Path) -> None:
    """Take a journal, turn it into parts of the tables, and remove it.

    The parts carry the journal's name, so doing it again after a crash halfway changes nothing,
    and where the journal is gone somebody else has taken it: then nothing is written.

    Parameters
    ----------
    folder
        The sweep's.
    journal
        `STEM.journal`; or a `STEM.taken` whose taker is dead.
    """
    taken = journal if journal.suffix == ".taken" else take_journal(journal)
    if taken is None:
        return
    try:
        results = read_results(taken)
    except FileNotFoundError:
        return
    commit_results(folder, taken, results)


def commit_results(folder: SweepFolder, taken: Path, results: Sequence[CellResult]) -> None:
    """Write a taken journal's results, unless they are there already, and remove it."""
    if results and not is_complete(folder, taken.stem):
        write_results(folder, taken.stem, results)
    with writing(taken):
        taken.unlink(missing_ok=True)


def write_results(folder: SweepFolder, stem: str, results: Sequence[CellResult]) -> None:
    """Write the parts of a pack.

    Parameters
    ----------
    folder
        The sweep's.
    stem
        The parts' name; unique.
    results
        The pack's cells, at least one.
    """
    write_pack(folder, stem, {name: to_arrow(name, results) for name in (*DETAIL_TABLES, "cells")})


def write_pack(
    folder: SweepFolder, stem: str, tables: Mapping[str, pa.Table], supersedes: Sequence[str] = ()
) -> None:
    """Write a pack's tables; `cells` comes last, and vouches for what was written before it."""
    sums: dict[str, FileDigest] = {}
    for name in DETAIL_TABLES:
        if tables[name].num_rows:
            data = encode(tables[name])
            sums[name] = FileDigest.of(data)
            atomic_write(part_path(folder, name, stem), data)
    cells = encode_cells(tables["cells"], Manifest(sums, tuple(supersedes)))
    atomic_write(part_path(folder, "cells", stem), cells)
    for name in (*sums, "cells"):
        sync_folder(folder.table(name))  # before anything that the parts replace may go


def write_part(folder: SweepFolder, name: str, stem: str, table: pa.Table) -> None:
    """Write one part of a table, whole."""
    atomic_write(part_path(folder, name, stem), encode(table))


def part_path(folder: SweepFolder, name: str, stem: str) -> Path:
    """Return the path of a pack's part of a table."""
    return folder.table(name) / f"{stem}.parquet"


def is_complete(folder: SweepFolder, stem: str) -> bool:
    """Return True if all parts of a pack are there, as they were written."""
    try:
        manifest = read_manifest(part_path(folder, "cells", stem).read_bytes())
        return manifest is not None and all(
            FileDigest.of(part_path(folder, name, stem).read_bytes()) == expected
            for name, expected in manifest.parts.items()
        )
    except (OSError, ValueError):
        return False


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one part, or some columns of it.

    Raises
    ------
    DataError
        It can't be read; its file is named.
    """
    try:
        return decode(path.read_bytes(), columns)
    except (ValueError, OSError) as error:
        pattern = f"{path.parent.parent}/*/{path.name}"
        raise DataError(
            f"{path}: not a readable Parquet file ({error}); move {pattern} away (a pack's parts "
            "belong together) and run the sweep again: it makes those cells anew"
        ) from error


def decode(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Decode a Parquet file, its pages checked; columns that it lacks are left out.

    Raises
    ------
    ValueError, OSError
        It isn't a whole Parquet file.
    """
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    # Arrow's own threads now and then abort a process that ends soon after (pyarrow 26).
    return file.read(columns=list(columns) if columns else None, use_threads=False)


@dataclass(frozen=True)
class FileDigest:
    """By which a file is known again."""

    size: int  # bytes
    crc32: int

    @classmethod
    def of(cls, data: bytes) -> FileDigest:
        """Return the sum of a file's content."""
        return cls(len(data), zlib.crc32(data))


@dataclass(frozen=True)
class Manifest:
    """Sums of a pack's parts besides `cells`, by table, and the packs that this one replaces."""

    parts: Mapping[str, FileDigest]
    supersedes: tuple[str, ...] = ()


def encode_cells(cells: pa.Table, manifest: Manifest) -> bytes:
    """Encode a `cells` part with its manifest and its own checksum in it."""
    said = {
        "parts": {name: [part.size, part.crc32] for name, part in manifest.parts.items()},
        "supersedes": manifest.supersedes,
    }
    notes = {PACK: json.dumps(said).encode(), OWN: b"crc32=" + ZEROS}
    data = encode(cells.replace_schema_metadata(notes))
    start, end = _checksum_place(data)
    return data[:start] + b"%08x" % zlib.crc32(data) + data[end:]


def read_manifest(data: bytes) -> Manifest | None:
    """Check a `cells` part against its own checksum and read what it says of its pack.

    Returns
    -------
    Manifest or None
        None where it never had one: the part is older than manifests, or somebody else's.

    Raises
    ------
    ValueError
        The content isn't what was written; the message says what is wrong.
    """
    if not data:
        raise ValueError("it is empty")
    try:
        start, end = _checksum_place(data)
    except ValueError:
        said = _notes(data)
        if PACK in said or OWN in said:
            raise
        return None
    crc32 = zlib.crc32(data[end:], zlib.crc32(ZEROS, zlib.crc32(data[:start])))
    if crc32 != int(data[start:end], 16):
        raise ValueError("its content isn't what was written there (wrong checksum)")
    said = json.loads(_notes(data)[PACK])
    sums = {name: FileDigest(*numbers) for name, numbers in said["parts"].items()}
    return Manifest(sums, tuple(said["supersedes"]))


def encode(table: pa.Table) -> bytes:
    """Encode a table as a Parquet file with a checksum on each page."""
    # Measured numbers seldom repeat: a dictionary of them is larger, and ten times slower to write.
    repeated = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        use_dictionary=repeated or False,
        row_group_size=ROW_GROUP,
        write_page_checksum=True,
    )
    return sink.getvalue().to_pybytes()


def _checksum_place(data: bytes) -> tuple[int, int]:
    """Find the digits: the last of what looks like them, as rows come before metadata."""
    places = [match.span(1) for match in CHECKSUM.finditer(data)]
    if not places:
        raise ValueError("its checksum is gone")
    return places[-1]


def _notes(data: bytes) -> dict[bytes, bytes]:
    try:
        return pq.read_schema(pa.BufferReader(data)).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a readable Parquet file ({error})") from error


def to_arrow(name: str, results: Sequence[CellResult]) -> pa.Table:
    """Make an Arrow table of some cells' rows; without a column where they have none."""
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
    """Store numbers as numbers, words as a dictionary, a mixture of kinds as JSON text."""
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
