"""A pack's journal: one committed line per finished cell, so a crash loses only running cells.

Fields of a line are separated by tabs:

    writer  JSON: the process that writes the journal, and the device and threads that it uses
    start   cell id, attempt
    at      cell id, fraction of its steps done
    done    cell id, outcome, checksum, JSON: all rows of the cell
    note    a message for people

The first line is `writer`. Readers skip a line without a newline or with a wrong checksum: it was
never committed.

The file is also the right to write the pack's tables. The process that renames `STEM.journal` to
`STEM.taken` owns that right; a writer whose journal is gone writes no tables.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.atomic_write import writing
from experiments.result import CellResult
from experiments.sweep.store.process import ProcessId

SYNC_INTERVAL = 0.2  # seconds between two calls of fsync, which takes longer than a tiny cell
TAKEN_SUFFIX = ".taken"  # suffix of a journal, or a folder of journals, that a process has taken
MAX_FIRST_LINE = 1 << 16  # bytes
WRITER_TYPES = {"host": str, "pid": int, "started": float | None, "about": dict}
SECONDS = re.compile(r'"seconds": ([0-9.e+-]+)')  # in the row of a cell, as JSON
FIELD_COUNTS = {"writer": 2, "start": 3, "at": 3, "done": 5, "note": 2}


@dataclass(frozen=True)
class Event:
    """A committed line of a journal, without payload: `kind` is `start`, `at`, `done` or `note`.

    `value` is the attempt, the fraction of steps done, the outcome, or the text of the note (which
    has no cell id). `seconds` is the time of a cell that is `done`, NaN if it has none.
    """

    kind: str
    cell_id: str
    value: str
    seconds: float = math.nan


@dataclass(frozen=True)
class Writer:
    """The process that writes a journal, and the device, threads and engine that it uses."""

    process: ProcessId
    about: dict[str, Any]


class Journal:
    """Writer of a pack's journal.

    Committed lines survive the death of the process. A power cut may lose the cells that ended
    within the last `SYNC_INTERVAL` seconds, or since the previous line; they run again.

    Parameters
    ----------
    path
        Path of a new file.
    about
        Description of this writer as JSON: device, threads, engine.
    new_folder
        Create the folder if it is missing. False for a lease, where a missing folder means that
        another process has taken its journals.

    Raises
    ------
    FaninError
        The file can't be written. Every method may raise this.
    """

    def __init__(
        self, path: Path, about: Mapping[str, Any] | None = None, new_folder: bool = True
    ) -> None:
        self.path = path
        with writing(path):
            if new_folder:
                path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: closing the file must not write again what failed to be written.
            self._file = path.open("xb", buffering=0)
        self._torn = False
        self._synced, self._pending = time.monotonic(), True
        process = asdict(ProcessId.current())
        self._write(f"writer\t{json.dumps({**process, 'about': dict(about or {})})}")

    def is_owned(self) -> bool:
        """Return True if no other process has taken the journal."""
        return self.path.exists()

    def start(self, cell_id: str, attempt: int) -> None:
        """Record that a cell starts."""
        self._write(f"start\t{cell_id}\t{attempt}")

    def progress(self, cell_id: str, done: int, total: int) -> None:
        """Record the progress of the running cell."""
        self._write(f"at\t{cell_id}\t{done / max(total, 1):.3f}")

    def note(self, text: str) -> None:
        """Record a warning for people."""
        self._write(f"note\t{json.dumps(text, ensure_ascii=False)[1:-1]}")

    def done(self, result: CellResult) -> None:
        """Commit a finished cell with all its rows."""
        payload = json.dumps({"row": result.row, "tables": result.tables})
        checksum = zlib.crc32(payload.encode())
        row = result.row
        self._pending = True
        self._write(f"done\t{row['cell_id']}\t{row['outcome']}\t{checksum:08x}\t{payload}")

    def close(self) -> None:
        """Flush the file to disk and close it, without deleting it."""
        with writing(self.path):
            os.fsync(self._file.fileno())
            self._file.close()

    def _write(self, line: str) -> None:
        # End a line that a full disk truncated, so that the next line does not continue it.
        text = "\n" * self._torn + f"{line}\n"
        data = memoryview(text.encode(errors="backslashreplace"))
        with writing(self.path):
            while data:
                data = data[self._file.write(data) :]
                self._torn = bool(data)
            if self._pending and time.monotonic() - self._synced >= SYNC_INTERVAL:
                os.fsync(self._file.fileno())
                self._synced, self._pending = time.monotonic(), False


def take_journal(journal: Path) -> Path | None:
    """Take a journal, and with it the right to write its pack's tables.

    Only one of several processes that try succeeds.

    Parameters
    ----------
    journal
        Path of `STEM.journal`, written by this or another process.

    Returns
    -------
    Path or None
        The new path, `STEM.taken`; None if another process has taken the journal.
    """
    taken = journal.with_suffix(".taken")
    with writing(journal):
        try:
            journal.rename(taken)
        except FileNotFoundError:
            return None
    return taken


def journals_in(folder: Path) -> dict[str, Path]:
    """Return the journals below a folder, taken or not, by the stems of their packs."""
    journals: dict[str, Path] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            stem, _, suffix = name.rpartition(".")
            if suffix in ("journal", "taken"):
                journals[stem] = Path(parent, name)
    return dict(sorted(journals.items()))


def read_results(path: Path) -> list[CellResult]:
    """Read every committed cell of a journal."""
    results = []
    for fields in _committed_lines(path.read_bytes()):
        if fields[0] == "done":
            content: dict[str, Any] = json.loads(fields[4])
            results.append(CellResult(content["row"], content["tables"]))
    return results


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Return the events committed after a byte offset, without payloads, and the next offset."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    events = []
    for kind, *fields in _committed_lines(data):
        if kind == "note":
            events.append(Event(kind, "", json.loads(f'"{fields[0]}"')))
        elif kind == "done":
            events.append(Event(kind, fields[0], fields[1], _seconds(fields[3])))
        elif kind != "writer":
            events.append(Event(kind, fields[0], fields[1]))
    return events, offset + data.rfind(b"\n") + 1


def _seconds(payload: str) -> float:
    """Return a cell's time without parsing its tables, which may be large."""
    match = SECONDS.search(payload)
    return float(match[1]) if match else math.nan


def read_writer(path: Path) -> Writer | None:
    """Read the writer of a journal; None if its first line is not committed yet."""
    with path.open("rb") as file:
        first = file.readline(MAX_FIRST_LINE)
    for fields in _committed_lines(first):
        if fields[0] == "writer":
            content = json.loads(fields[1])
            process = ProcessId(content["host"], content["pid"], content["started"])
            return Writer(process, content["about"])
    return None


def _committed_lines(data: bytes) -> Iterator[list[str]]:
    """Yield the fields of each committed line."""
    for line in data.split(b"\n")[:-1]:
        kind, _, rest = line.decode(errors="replace").partition("\t")
        fields = [kind, *rest.split("\t", 3 if kind == "done" else -1)]
        if FIELD_COUNTS.get(kind) != len(fields):
            continue
        if kind == "done":
            payload = line.split(b"\t", 4)[4]
            committed = f"{zlib.crc32(payload):08x}" == fields[3]
        elif kind == "writer":
            committed = _is_json_mapping(fields[1], WRITER_TYPES)
        elif kind == "note":
            committed = _is_json_mapping(f'{{"note": "{fields[1]}"}}', {"note": str})
        else:
            committed = fields[2].replace(".", "", 1).isdecimal()
        if committed:
            yield fields


def _is_json_mapping(text: str, types: Mapping[str, Any]) -> bool:
    """Return True if a text is a JSON mapping with values of these types."""
    try:
        content = json.loads(text)
    except ValueError:
        return False
    return isinstance(content, dict) and all(
        key in content and isinstance(content[key], value_type) for key, value_type in types.items()
    )
