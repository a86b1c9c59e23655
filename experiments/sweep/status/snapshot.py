"""A sweep's files at one moment, and the reader that follows them as they grow."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.sweep.differences import short_labels
from experiments.sweep.slurm.submission import read_log
from experiments.sweep.store.journal import (
    TAKEN,
    Event,
    Writer,
    journals_in,
    read_events,
    read_writer,
)
from experiments.sweep.store.parquet import part_path, read_part
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.scan import retry_on_race, scan
from experiments.sweep.store.tables import latest_attempts
from experiments.sweep.types import pack_key
from fanin.errors import DataError

OURS = {"cell_id", "outcome", "attempt"}  # columns without which a part is none of ours
COLUMNS = (*OURS, "seconds", "outcome_reason", "engine", "code")


@dataclass(frozen=True)
class Result:
    """End of a cell; of one whose pack has not ended, the journal tells only the first four.

    Attributes
    ----------
    fresh
        Whether it ended in the sweep's present run.
    order
        How many results were seen before it.
    """

    outcome: str
    attempt: int
    fresh: bool
    order: int
    seconds: float = math.nan
    reason: str | None = None
    engine: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class Begun:
    """A cell that has begun and not ended.

    Attributes
    ----------
    share
        Of its steps, how many are done: 0 to 1.
    since
        When it was first seen, by the monotonic clock.
    from_start
        Whether that was when it began.
    """

    cell_id: str
    attempt: int
    share: float
    since: float
    from_start: bool


@dataclass(frozen=True)
class OpenJournal:
    """A journal whose pack has not ended.

    Attributes
    ----------
    grew
        When it last did, by the file system's clock.
    element
        The folder that it lies in, of a cluster's job; None: it is no job's.
    over
        Whether somebody has taken that folder: its writer's turn is over, be it alive.
    """

    writer: Writer | None
    grew: float
    begun: tuple[Begun, ...]
    element: str | None = None
    over: bool = False


@dataclass(frozen=True)
class Snapshot:
    """Latest results by cell, journals of packs that have not ended, and words for people.

    Attributes
    ----------
    notes
        What workers noted.
    faults
        Files that can't be read.
    changed
        When the newest file was written, by the file system's clock.
    """

    results: Mapping[str, Result]
    journals: tuple[OpenJournal, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...]
    changed: float | None


@dataclass(frozen=True)
class Planned:
    """Every cell that was ever planned in a folder.

    Attributes
    ----------
    labels
        By cell id, a short label.
    kinds
        By cell id, what it shares with cells that take about as long.
    faults
        What can't be read, for people.
    """

    labels: dict[str, str]
    kinds: dict[str, str]
    faults: tuple[str, ...] = ()


def read_planned(folder: SweepFolder) -> Planned:
    """Read a plan; lines that are spoilt are counted and passed over."""
    try:
        lines = folder.plan.read_bytes().splitlines()
    except FileNotFoundError:
        return Planned({}, {})
    asked, kinds, spoilt = {}, {}, 0
    for text in lines:
        try:
            line = json.loads(text)
            cell, config = line["cell_id"], line["config"]
            asked[cell], kinds[cell] = line["asked"], pack_key(config)
        except (ValueError, TypeError, KeyError):
            spoilt += 1
    faults = (f"{folder.plan}: {spoilt} lines can't be read",) if spoilt else ()
    return Planned(short_labels(asked), kinds, faults)


class JournalTail:
    """Reads a sweep's folder, and at each `look` what has come since.

    Parameters
    ----------
    folder
        The sweep's.
    since
        Parts written from that time on are of the sweep's present run; None: those that are not
        there yet.
    """

    def __init__(self, folder: SweepFolder, since: float | None = None) -> None:
        self._folder = folder
        self._offsets: dict[str, int] = {}  # these three by a pack's stem
        self._journals: dict[str, OpenJournal] = {}
        self._results: dict[str, dict[str, Result]] = {}
        self._parts: set[str] = set()
        self._order: dict[tuple[str, int], int] = {}
        self._notes: dict[str, None] = {}  # in order
        self._looked = False
        found = retry_on_race(lambda: scan(folder))
        self._faults = {fault.path: str(fault) for fault in found.faults}
        self._passed_over = {f.stem or f.path.stem for f in found.faults} | found.superseded
        self._old = {stem for stem, t in self._listed().items() if since is None or t < since}

    def look(self) -> Snapshot:
        """Read on, and say how things stand."""
        # Journals first: one whose pack ends meanwhile is then found among the parts.
        journals, parts = journals_in(self._folder.journals), self._listed()
        for stem in self._journals.keys() - (journals.keys() - parts.keys()):
            del self._journals[stem]
        for stem in self._results.keys() - parts.keys() - journals.keys():
            del self._results[stem]  # compacted, or moved away
        for stem, path in journals.items():
            if stem not in parts:
                self._read_journal(stem, path)
        for stem in sorted(parts.keys() - self._parts, key=parts.__getitem__):  # the oldest first
            self._read_part(stem)
        self._parts = set(parts)
        self._notes |= dict.fromkeys(read_log(self._folder))
        self._looked = True
        times = [*parts.values(), *(journal.grew for journal in self._journals.values())]
        return Snapshot(
            self._latest(),
            tuple(self._journals.values()),
            tuple(self._notes),
            tuple(self._faults.values()),
            max(times, default=None),
        )

    def _listed(self) -> dict[str, float]:
        """Parts of `cells`, and when they were written."""
        times = {}
        with suppress(OSError), os.scandir(self._folder.table("cells")) as entries:
            for entry in entries:
                stem, _, kind = entry.name.rpartition(".")
                if kind == "parquet" and stem and stem not in self._passed_over:
                    with suppress(OSError):
                        times[stem] = entry.stat().st_mtime
        return times

    def _read_journal(self, stem: str, listed: Path) -> None:
        for path in (listed, listed.with_suffix(".taken")):  # taken since the listing
            with suppress(OSError):
                before = self._journals.get(stem, OpenJournal(None, 0.0, ()))
                writer = before.writer or read_writer(path)
                grew = path.stat().st_mtime
                events, self._offsets[stem] = read_events(path, self._offsets.get(stem, 0))
                begun = {each.cell_id: each for each in before.begun}
                for event in events:
                    with suppress(ValueError):  # noise that looks like a line
                        self._follow(stem, begun, event)
                folders = path.relative_to(self._folder.journals).parts[:-1]
                over = any(folder.endswith(TAKEN) for folder in folders)
                of = folders[0] if folders else None
                self._journals[stem] = OpenJournal(writer, grew, tuple(begun.values()), of, over)
                return

    def _follow(self, stem: str, begun: dict[str, Begun], event: Event) -> None:
        cell, word = event.cell_id, event.value
        if event.kind == "note":
            self._notes[word] = None
        elif event.kind == "start":
            begun[cell] = Begun(cell, int(word), 0.0, time.monotonic(), self._looked)
        elif event.kind == "at":  # cells that are at work together go along
            share = float(word)
            begun |= {mate: replace(each, share=share) for mate, each in begun.items()}
        elif event.kind == "done" and cell in begun:
            self._keep(stem, cell, word, begun.pop(cell).attempt)

    def _read_part(self, stem: str) -> None:
        path = part_path(self._folder, "cells", stem)
        try:
            part = read_part(path, COLUMNS)
        except DataError as error:
            self._faults[path] = str(error)
            return
        if not set(part.column_names) >= OURS:
            self._faults[path] = f"{path}: not one of this sweep's tables"
            return
        for row in part.to_pylist():
            seconds = math.nan if row.get("seconds") is None else row["seconds"]
            more = seconds, row.get("outcome_reason"), row.get("engine"), row.get("code")
            self._keep(stem, row["cell_id"], row["outcome"], row["attempt"], *more)

    def _keep(self, stem: str, cell: str, outcome: str, attempt: int, *more: Any) -> None:
        order = self._order.setdefault((cell, attempt), len(self._order))
        result = Result(outcome, attempt, stem not in self._old, order, *more)
        self._results.setdefault(stem, {})[cell] = result

    def _latest(self) -> dict[str, Result]:
        return latest_attempts(
            (cell, result.attempt, result)
            for results in self._results.values()
            for cell, result in results.items()
        )
