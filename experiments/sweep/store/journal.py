"""A pack's journal: one committed line a finished cell, so a crash loses only the one running.

A line is `start`, cell id, attempt or `done`, cell id, outcome, checksum, JSON; tabs between. A
line without its newline, or whose checksum is wrong, was never committed and is passed over.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.cell import CellResult


@dataclass(frozen=True)
class Event:
    """A committed line without its payload: `kind` is `start` or `done`."""

    kind: str
    cell_id: str
    outcome: str


class Journal:
    """Writes a pack's journal.

    The file is also the pack's right to write: when another launcher has taken it over (because
    this one seemed dead), the file is gone and `held` says so.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("xb")

    def held(self) -> bool:
        """Whether this journal is still the pack's own."""
        return self.path.exists()

    def start(self, cell_id: str, attempt: int) -> None:
        """Note which cell is about to run."""
        self._commit(f"start\t{cell_id}\t{attempt}")

    def done(self, result: CellResult) -> None:
        """Commit a finished cell with all its rows."""
        payload = json.dumps({"row": result.row, "tables": result.tables})
        checksum = zlib.crc32(payload.encode())
        row = result.row
        self._commit(f"done\t{row['cell_id']}\t{row['outcome']}\t{checksum:08x}\t{payload}")

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()

    def _commit(self, line: str) -> None:
        self._file.write(f"{line}\n".encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def read_results(path: Path) -> list[CellResult]:
    """Every committed cell of a journal."""
    results = []
    for fields in _lines(path.read_bytes()):
        if fields[0] == "done" and len(fields) == 5:
            payload = fields[4]
            if f"{zlib.crc32(payload.encode()):08x}" == fields[3]:
                content: dict[str, Any] = json.loads(payload)
                results.append(CellResult(content["row"], content["tables"]))
    return results


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """What was committed after a byte offset, without the results; and the next offset."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    events = [Event(f[0], f[1], f[2]) for f in _lines(whole) if len(f) >= 3]
    return events, offset + len(whole)


def _lines(data: bytes) -> Iterator[list[str]]:
    for line in data.split(b"\n")[:-1]:
        yield line.decode(errors="replace").split("\t", 4)
