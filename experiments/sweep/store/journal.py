"""A pack's journal: one committed line a finished cell, so a crash loses only the one running.

The first line is `writer` and, as JSON, which process writes on what. Each cell has `start`, cell
id, attempt; now and then `at`, cell id, share of its steps done; and `done`, cell id, outcome,
checksum, JSON. `note` is a line for people. Tabs between.
A line without its newline, or whose checksum is wrong, was never committed and is passed over.

The file is also the pack's right to write tables. Whoever renames `STEM.journal` to `STEM.taken`
has it: a writer whose journal is gone publishes nothing.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.atomic_write import writing
from experiments.result import CellResult
from experiments.sweep.store.process import ProcessId

SYNC_INTERVAL = 0.2  # seconds between two waits for the disk, which cost more than a tiny cell does
TAKEN = ".taken"  # what a journal's name, or its folder's, ends in that somebody has taken
LONGEST = 1 << 16  # bytes of a first line
WRITER = {"host": str, "pid": int, "started": float | None, "about": dict}
LINES = {"writer": 2, "start": 3, "at": 3, "done": 5, "note": 2}  # how many fields each has


@dataclass(frozen=True)
class Event:
    """A committed line without its payload: `kind` is `start`, `at`, `done` or `note`.

    `word` is the attempt, the share of steps done, the outcome, or the note (of no cell).
    """

    kind: str
    cell_id: str
    word: str


@dataclass(frozen=True)
class Writer:
    """The process that writes a journal, and what it said about itself."""

    process: ProcessId
    about: dict[str, Any]


class Journal:
    """Writes a pack's journal, first of all which process that is.

    What a process wrote survives its death. A power cut may lose the cells that ended within the
    last `SYNC_INTERVAL` seconds, or since the line before; they are run again.

    Parameters
    ----------
    path
        A file that isn't there yet.
    about
        What else to say of this writer: device, threads, whatever JSON can hold.
    new_folder
        Whether to make the folder where it is missing. Not where that means that somebody has
        taken all of its journals, and so the right to write there.

    Raises
    ------
    FaninError
        As `writing`, from here and from every other method.
    """

    def __init__(
        self, path: Path, about: Mapping[str, Any] | None = None, new_folder: bool = True
    ) -> None:
        self.path = path
        with writing(path):
            if new_folder:
                path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what could not be written is not tried again when the file is closed.
            self._file = path.open("xb", buffering=0)
        self._torn = False
        self._synced, self._pending = time.monotonic(), True
        who = asdict(ProcessId.current())
        self._write(f"writer\t{json.dumps({**who, 'about': dict(about or {})})}")

    def is_owned(self) -> bool:
        """Return True if this journal is still the pack's own."""
        return self.path.exists()

    def start(self, cell_id: str, attempt: int) -> None:
        """Note which cell is about to run."""
        self._write(f"start\t{cell_id}\t{attempt}")

    def progress(self, cell_id: str, done: int, total: int) -> None:
        """Note how far the running cell is."""
        self._write(f"at\t{cell_id}\t{done / max(total, 1):.3f}")

    def note(self, text: str) -> None:
        """Leave a warning for people."""
        self._write(f"note\t{json.dumps(text, ensure_ascii=False)[1:-1]}")

    def done(self, result: CellResult) -> None:
        """Commit a finished cell with all its rows."""
        payload = json.dumps({"row": result.row, "tables": result.tables})
        checksum = zlib.crc32(payload.encode())
        row = result.row
        self._pending = True
        self._write(f"done\t{row['cell_id']}\t{row['outcome']}\t{checksum:08x}\t{payload}")

    def close(self) -> None:
        """Force all of it to disk and close the file; it stays."""
        with writing(self.path):
            os.fsync(self._file.fileno())
            self._file.close()

    def _write(self, line: str) -> None:
        # After a line that a full disk cut short, the next one must not become its end.
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
    """Take a pack's right to write its tables; of several that try, one gets it.

    Parameters
    ----------
    journal
        `STEM.journal`, another's or one's own.

    Returns
    -------
    Path or None
        The file's new name, `STEM.taken`; None where somebody else has it.
    """
    taken = journal.with_suffix(".taken")
    with writing(journal):
        try:
            journal.rename(taken)
        except FileNotFoundError:
            return None
    return taken


def journals_in(folder: Path) -> dict[str, Path]:
    """Return the journals below a folder, taken or not, by their packs' stems."""
    found: dict[str, Path] = {}
    for where, _, names in os.walk(folder):
        for name in names:
            stem, _, kind = name.rpartition(".")
            if kind in ("journal", "taken"):
                found[stem] = Path(where, name)
    return dict(sorted(found.items()))


def read_results(path: Path) -> list[CellResult]:
    """Read every committed cell of a journal."""
    results = []
    for fields in _committed(path.read_bytes()):
        if fields[0] == "done":
            content: dict[str, Any] = json.loads(fields[4])
            results.append(CellResult(content["row"], content["tables"]))
    return results


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Read what was committed after a byte offset, without results; return the next offset too."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    events = []
    for kind, *words in _committed(data):
        if kind == "note":
            events.append(Event(kind, "", json.loads(f'"{words[0]}"')))
        elif kind != "writer":
            events.append(Event(kind, words[0], words[1]))
    return events, offset + data.rfind(b"\n") + 1


def read_writer(path: Path) -> Writer | None:
    """Read which process writes a journal; None where it has not yet said so."""
    with path.open("rb") as file:
        first = file.readline(LONGEST)
    for fields in _committed(first):
        if fields[0] == "writer":
            said = json.loads(fields[1])
            return Writer(ProcessId(said["host"], said["pid"], said["started"]), said["about"])
    return None


def _committed(data: bytes) -> Iterator[list[str]]:
    """Yield the fields of each line that is whole."""
    for line in data.split(b"\n")[:-1]:
        kind, _, rest = line.decode(errors="replace").partition("\t")
        fields = [kind, *rest.split("\t", 3 if kind == "done" else -1)]
        if LINES.get(kind) != len(fields):
            continue
        if kind == "done":
            payload = line.split(b"\t", 4)[4]
            whole = f"{zlib.crc32(payload):08x}" == fields[3]
        elif kind == "writer":
            whole = _says(fields[1], WRITER)
        elif kind == "note":
            whole = _says(f'{{"note": "{fields[1]}"}}', {"note": str})
        else:
            whole = fields[2].replace(".", "", 1).isdecimal()
        if whole:
            yield fields


def _says(text: str, kinds: Mapping[str, Any]) -> bool:
    """Return True if a text is a JSON mapping with values of these kinds."""
    try:
        said = json.loads(text)
    except ValueError:
        return False
    return isinstance(said, dict) and all(
        key in said and isinstance(said[key], kind) for key, kind in kinds.items()
    )
