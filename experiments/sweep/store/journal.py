"""A pack's journal: one committed line a finished cell, so a crash loses only the one running.

The first line is `writer` and its process id. Each cell has `start`, cell id, attempt; now and then
`at`, cell id, share of its steps done; and `done`, cell id, outcome, checksum, JSON; tabs between.
A line without its newline, or whose checksum is wrong, was never committed and is passed over.
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
from experiments.sweep.store.paths import writing


@dataclass(frozen=True)
class Event:
    """A committed line without its payload: `kind` is `start`, `at` or `done`.

    `word` is the attempt, the share of steps done, or the outcome.
    """

    kind: str
    cell_id: str
    word: str


class Journal:
    """Writes a pack's journal.

    The file is also the pack's right to write: when another launcher has taken it over (because
    this one seemed dead), the file is gone and `held` says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what could not be written is not tried again when the file is closed.
            self._file = path.open("xb", buffering=0)
        self._commit(f"writer\t{os.getpid()}")

    def held(self) -> bool:
        """Whether this journal is still the pack's own."""
        return self.path.exists()

    def start(self, cell_id: str, attempt: int) -> None:
        """Note which cell is about to run."""
        self._commit(f"start\t{cell_id}\t{attempt}")

    def beat(self, cell_id: str, done: int, total: int) -> None:
        """Note how far the running cell is; nobody minds if a crash loses it."""
        self._write(f"at\t{cell_id}\t{done / total:.3f}")

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
        self._write(line)
        with writing(self.path):
            os.fsync(self._file.fileno())

    def _write(self, line: str) -> None:
        data = memoryview(f"{line}\n".encode())
        with writing(self.path):
            while data:
                data = data[self._file.write(data) :]


def read_results(path: Path) -> list[CellResult]:
    """Every committed cell of a journal."""
    results = []
    for fields in _committed(path.read_bytes()):
        if fields[0] == "done":
            content: dict[str, Any] = json.loads(fields[4])
            results.append(CellResult(content["row"], content["tables"]))
    return results


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """What was committed after a byte offset, without the results; and the next offset."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    events = [Event(f[0], f[1], f[2]) for f in _committed(data) if f[0] != "writer"]
    return events, offset + data.rfind(b"\n") + 1


def read_writer(path: Path) -> int | None:
    """The process that writes a journal; None where it has not yet said so."""
    with path.open("rb") as file:
        first = file.readline(64)
    for fields in _committed(first):
        if fields[0] == "writer" and fields[1].isdecimal():
            return int(fields[1])
    return None


def _committed(data: bytes) -> Iterator[list[str]]:
    """The fields of each line that is whole."""
    for line in data.split(b"\n")[:-1]:
        fields = line.decode(errors="replace").split("\t", 4)
        kind, length = fields[0], len(fields)
        if kind == "done" and length == 5:
            payload = line.split(b"\t", 4)[4]
            whole = f"{zlib.crc32(payload):08x}" == fields[3]
        else:
            whole = (kind, length) in (("start", 3), ("at", 3), ("writer", 2))
        if whole:
            yield fields
