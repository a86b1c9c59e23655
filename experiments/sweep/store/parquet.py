"""Tables as Parquet: immutable part files, written atomically.

The `cells` part of a pack carries a manifest in its schema metadata: sizes and checksums of the
pack's other parts, and the packs that it replaces. It also carries its own checksum, which is
computed with eight zeros in its place and then written over them.
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

MANIFEST_KEY, CHECKSUM_KEY = b"fanin.pack", b"fanin.checksum"
DIGITS = 8
CHECKSUM = re.compile(rb"crc32=([0-9a-f]{%d})" % DIGITS)
ZEROS = b"0" * DIGITS
ROW_GROUP = 1 << 20  # rows
INTEGERS = ("draw", "step", "image", "layer", "count", "index", "attempt", "outcome_step")
FLOATS = ("value", "left", "right", "test_accuracy", "test_loss", "train_loss", "seconds")
STRINGS = ("outcome_tensor", "outcome_reason")  # strings even if all values of a part are null


def commit_journal(folder: SweepFolder, journal: Path) -> None:
    """Take a journal, write its results as parts of the tables, and delete it.

    The parts are named after the journal, so repeating this after a crash changes nothing. If
    another process has taken the journal, write nothing.

    Parameters
    ----------
    folder
        Folder of the sweep.
    journal
        `STEM.journal`; or `STEM.taken`, if the process that took it is dead.
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
    """Write the results of a taken journal, unless they are already stored, and delete it."""
    if results and not is_complete(folder, taken.stem):
        write_results(folder, taken.stem, results)
    with writing(taken):
        taken.unlink(missing_ok=True)


def write_results(folder: SweepFolder, stem: str, results: Sequence[CellResult]) -> None:
    """Write the parts of a pack.

    Parameters
    ----------
    folder
        Folder of the sweep.
    stem
        Unique name of the part files.
    results
        Results of the pack's cells, at least one.
    """
    write_pack(folder, stem, {name: to_arrow(name, results) for name in (*DETAIL_TABLES, "cells")})


def write_pack(
    folder: SweepFolder, stem: str, tables: Mapping[str, pa.Table], supersedes: Sequence[str] = ()
) -> None:
    """Write a pack's tables; `cells` comes last, with the digests of the others."""
    digests: dict[str, FileDigest] = {}
    for name in DETAIL_TABLES:
        if tables[name].num_rows:
            data = encode(tables[name])
            digests[name] = FileDigest.of(data)
            atomic_write(part_path(folder, name, stem), data)
    cells = encode_cells(tables["cells"], Manifest(digests, tuple(supersedes)))
    atomic_write(part_path(folder, "cells", stem), cells)
    for name in (*digests, "cells"):
        sync_folder(folder.table(name))  # before the packs that they replace are deleted


def write_part(folder: SweepFolder, name: str, stem: str, table: pa.Table) -> None:
    """Write one part of a table atomically."""
    atomic_write(part_path(folder, name, stem), encode(table))


def part_path(folder: SweepFolder, name: str, stem: str) -> Path:
    """Return the path of a pack's part of a table."""
    return folder.table(name) / f"{stem}.parquet"


def is_complete(folder: SweepFolder, stem: str) -> bool:
    """Return True if all parts of a pack exist and are undamaged."""
    try:
        manifest = read_manifest(part_path(folder, "cells", stem).read_bytes())
        return manifest is not None and all(
            FileDigest.of(part_path(folder, name, stem).read_bytes()) == expected
            for name, expected in manifest.parts.items()
        )
    except (OSError, ValueError):
        return False


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one part, or some of its columns.

    Raises
    ------
    DataError
        The file can't be read.
    """
    try:
        return decode(path.read_bytes(), columns)
    except (ValueError, OSError) as error:
        pattern = f"{path.parent.parent}/*/{path.name}"
        raise DataError(
            f"{path}: not a readable Parquet file ({error}). To recompute its cells, move "
            f"{pattern} (all parts of the pack) out of the sweep's folder and run the sweep again"
        ) from error


def decode(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Decode a Parquet file and verify its page checksums; ignore columns that it lacks.

    Raises
    ------
    ValueError, OSError
        The file is not valid Parquet.
    """
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    # With Arrow's threads, a process that ends soon after sometimes aborts (pyarrow 26).
    return file.read(columns=list(columns) if columns else None, use_threads=False)


@dataclass(frozen=True)
class FileDigest:
    """Size and checksum of a file."""

    size: int  # bytes
    crc32: int

    @classmethod
    def of(cls, data: bytes) -> FileDigest:
        """Return the digest of a file's content."""
        return cls(len(data), zlib.crc32(data))


@dataclass(frozen=True)
class Manifest:
    """Digests of a pack's parts except `cells`, by table, and the packs that it replaces."""

    parts: Mapping[str, FileDigest]
    supersedes: tuple[str, ...] = ()


def encode_cells(cells: pa.Table, manifest: Manifest) -> bytes:
    """Encode a `cells` part with its manifest and its own checksum."""
    content = {
        "parts": {name: [part.size, part.crc32] for name, part in manifest.parts.items()},
        "supersedes": manifest.supersedes,
    }
    metadata = {MANIFEST_KEY: json.dumps(content).encode(), CHECKSUM_KEY: b"crc32=" + ZEROS}
    data = encode(cells.replace_schema_metadata(metadata))
    start, end = _checksum_span(data)
    return data[:start] + b"%08x" % zlib.crc32(data) + data[end:]


def read_manifest(data: bytes) -> Manifest | None:
    """Verify the checksum of a `cells` part and read its manifest.

    Returns
    -------
    Manifest or None
        None if the part has no manifest: it is older than manifests, or of other origin.

    Raises
    ------
    ValueError
        The content is damaged.
    """
    if not data:
        raise ValueError("damaged (empty file)")
    try:
        start, end = _checksum_span(data)
    except ValueError:
        metadata = _schema_metadata(data)
        if MANIFEST_KEY in metadata or CHECKSUM_KEY in metadata:
            raise
        return None
    crc32 = zlib.crc32(data[end:], zlib.crc32(ZEROS, zlib.crc32(data[:start])))
    if crc32 != int(data[start:end], 16):
        raise ValueError("damaged (wrong checksum)")
    content = json.loads(_schema_metadata(data)[MANIFEST_KEY])
    digests = {name: FileDigest(*numbers) for name, numbers in content["parts"].items()}
    return Manifest(digests, tuple(content["supersedes"]))


def encode(table: pa.Table) -> bytes:
    """Encode a table as a Parquet file with a checksum for each page."""
    # Measured numbers seldom repeat: a dictionary of them is larger and ten times slower to write.
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


def _checksum_span(data: bytes) -> tuple[int, int]:
    """Return the start and the end of the checksum's digits.

    That is the last match of the pattern, because the metadata follows the rows.
    """
    spans = [match.span(1) for match in CHECKSUM.finditer(data)]
    if not spans:
        raise ValueError("damaged (no checksum)")
    return spans[-1]


def _schema_metadata(data: bytes) -> dict[bytes, bytes]:
    try:
        return pq.read_metadata(pa.BufferReader(data)).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a readable Parquet file ({error})") from error


def to_arrow(name: str, results: Sequence[CellResult]) -> pa.Table:
    """Convert the rows of one table to Arrow; without rows, return a table without columns."""
    if name == "cells":
        keys = list(dict.fromkeys(key for result in results for key in result.row))
        return pa.table({key: _column(key, [r.row.get(key) for r in results]) for key in keys})
    non_empty = [(r.row["cell_id"], r.tables[name]) for r in results if r.tables.get(name)]
    if not non_empty:
        return pa.table({})
    lengths = [len(next(iter(columns.values()))) for _, columns in non_empty]
    ids = [cell for (cell, _), n in zip(non_empty, lengths, strict=True) for _ in range(n)]
    joined: dict[str, list[Any]] = {"cell_id": ids}
    for key in non_empty[0][1]:
        joined[key] = [value for _, columns in non_empty for value in columns[key]]
    return pa.table({key: _column(key, values) for key, values in joined.items()})


def _column(key: str, values: list[Any]) -> pa.Array:
    """Store numbers as numbers, strings as a dictionary, and mixed types as JSON strings."""
    if key in INTEGERS:
        return pa.array(values, pa.int32())
    if key in FLOATS:
        return pa.array(values, pa.float64())
    present = [value for value in values if value is not None]
    if not present and key not in STRINGS:
        return pa.nulls(len(values))  # compatible with the type in other parts
    if all(isinstance(value, bool) for value in present) and present:
        return pa.array(values, pa.bool_())
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in present) and present:
        all_integers = all(isinstance(value, int) for value in present)
        with suppress(OverflowError, pa.ArrowInvalid):  # numbers too large for both become strings
            return pa.array(values, pa.int64() if all_integers else pa.float64())
    texts = [
        value if value is None or isinstance(value, str) else json.dumps(value) for value in values
    ]
    return pa.array(texts, pa.string()).dictionary_encode()
