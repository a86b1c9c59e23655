"""What a pack's `cells` part vouches for: itself, its sibling parts, and packs it stands in for.

It is kept in the part's Parquet schema metadata. The part's own checksum can't be known before its
bytes are: it is put in last, over eight zeros that it was computed with.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

PACK, OWN = b"fanin.pack", b"fanin.checksum"
DIGITS = 8
CHECKSUM = re.compile(rb"crc32=([0-9a-f]{%d})" % DIGITS)
ZEROS = b"0" * DIGITS
ROW_GROUP = 1 << 20  # rows


@dataclass(frozen=True)
class Sum:
    """By which a file is known again."""

    size: int  # bytes
    crc32: int

    @classmethod
    def of(cls, data: bytes) -> Sum:
        """The sum of a file's content."""
        return cls(len(data), zlib.crc32(data))


@dataclass(frozen=True)
class Manifest:
    """Sums of a pack's parts besides `cells`, by table, and the packs that this one replaces."""

    parts: Mapping[str, Sum]
    supersedes: tuple[str, ...] = ()


def seal(cells: pa.Table, manifest: Manifest) -> bytes:
    """A `cells` part with its manifest and its own checksum in it."""
    said = {
        "parts": {name: [part.size, part.crc32] for name, part in manifest.parts.items()},
        "supersedes": manifest.supersedes,
    }
    notes = {PACK: json.dumps(said).encode(), OWN: b"crc32=" + ZEROS}
    data = encode(cells.replace_schema_metadata(notes))
    start, end = _checksum_place(data)
    return data[:start] + b"%08x" % zlib.crc32(data) + data[end:]


def unseal(data: bytes) -> Manifest | None:
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
    sums = {name: Sum(*numbers) for name, numbers in said["parts"].items()}
    return Manifest(sums, tuple(said["supersedes"]))


def encode(table: pa.Table) -> bytes:
    """A table as a Parquet file with a checksum on each page."""
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
    """Where the digits are: the last of what looks like them, as rows come before metadata."""
    places = [match.span(1) for match in CHECKSUM.finditer(data)]
    if not places:
        raise ValueError("its checksum is gone")
    return places[-1]


def _notes(data: bytes) -> dict[bytes, bytes]:
    try:
        return pq.read_schema(pa.BufferReader(data)).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a readable Parquet file ({error})") from error
