"""Snapshot of a sweep's files, and the reader that follows the files as they grow."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.sweep.differences import short_labels
from experiments.sweep.slurm.submission import read_log
from experiments.sweep.store.journal import (
    TAKEN_SUFFIX,
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

REQUIRED_COLUMNS = {"cell_id", "outcome", "attempt"}  # of each part file of the table `cells`
COLUMNS = (*REQUIRED_COLUMNS, "seconds", "outcome_reason", "engine", "code")


@dataclass(frozen=True)
class Result:
    """Result of a cell. While its pack runs, only the first five attributes are known.

    Attributes
    ----------
    this_run
        True if the cell ended in the sweep's current run.
    order
        Number of results that were read before this one.
    """

    outcome: str
    attempt: int
    this_run: bool
    order: int
    seconds: float = math.nan
    reason: str | None = None
    engine: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class StartedCell:
    """A cell that has started and not ended.

    Attributes
    ----------
    progress
        Finished fraction of its training steps, 0 to 1.
    first_seen
        Time when it was first read from the journal, by the monotonic clock.
    seen_at_start
        True if an earlier poll did not show it, so that `first_seen` is about its start. False if
        the first poll showed it.
    """

    cell_id: str
    attempt: int
    progress: float
    first_seen: float
    seen_at_start: bool


@dataclass(frozen=True)
class OpenJournal:
    """Journal of a pack that has not ended.

    Attributes
    ----------
    modified
        Modification time of the file.
    lease
        Name of the lease folder that it is in. None: it is not written by a Slurm job.
    expired
        True if the lease was lost: the writer, even if alive, cannot commit the journal.
    """

    writer: Writer | None
    modified: float
    started: tuple[StartedCell, ...]
    lease: str | None = None
    expired: bool = False


@dataclass(frozen=True)
class Snapshot:
    """Latest results by cell, journals of packs that have not ended, and messages.

    Attributes
    ----------
    notes
        Messages of workers and of the Slurm job manager.
    unreadable
        Messages about files that cannot be read.
    last_change
        Modification time of the newest file.
    """

    results: Mapping[str, Result]
    journals: tuple[OpenJournal, ...]
    notes: tuple[str, ...]
    unreadable: tuple[str, ...]
    last_change: float | None


@dataclass(frozen=True)
class PlannedCells:
    """All cells ever planned in a folder.

    Attributes
    ----------
    labels
        Short label by cell id.
    kinds
        Pack key by cell id; cells with the same key take about as long.
    seconds
        Time that a cell of each kind was expected to take when it was planned, by pack key.
    unreadable
        Messages about lines that cannot be read.
    """

    labels: dict[str, str]
    kinds: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()


def read_planned(folder: SweepFolder) -> PlannedCells:
    """Read a plan file; skip and count lines that cannot be read."""
    try:
        lines = folder.plan.read_bytes().splitlines()
    except FileNotFoundError:
        return PlannedCells({}, {})
    assignments, kinds, seconds, n_unreadable = {}, {}, {}, 0
    for text in lines:
        try:
            line = json.loads(text)
            cell_id, config = line["cell_id"], line["config"]
            assignments[cell_id], kinds[cell_id] = line["assignment"], pack_key(config)
            if "seconds" in line:
                seconds[kinds[cell_id]] = float(line["seconds"])
        except (ValueError, TypeError, KeyError):
            n_unreadable += 1
    noun = "line" if n_unreadable == 1 else "lines"
    message = f"{folder.plan}: skipped {n_unreadable} damaged {noun}"
    unreadable = (message,) if n_unreadable else ()
    return PlannedCells(short_labels(assignments), kinds, seconds, unreadable)


class JournalTail:
    """Reader of a sweep's folder that reads only what is new at each `poll`.

    Parameters
    ----------
    folder
        Folder of the sweep.
    since
        Parts written at or after this time belong to the sweep's current run. None: parts that do
        not exist yet.
    """

    def __init__(self, folder: SweepFolder, since: float | None = None) -> None:
        self._folder = folder
        # Offsets, journals and results by the stem of the pack.
        self._offsets: dict[str, int] = {}
        self._journals: dict[str, OpenJournal] = {}
        self._results: dict[str, dict[str, Result]] = {}
        self._parts: set[str] = set()
        self._order: dict[tuple[str, int], int] = {}
        self._notes: dict[str, None] = {}  # an ordered set
        self._polled = False
        files = retry_on_race(lambda: scan(folder))
        self._unreadable = {problem.path: str(problem) for problem in files.problems}
        self._ignored = {
            problem.stem or problem.path.stem for problem in files.problems
        } | files.superseded
        times = self._part_times()
        self._old = {stem for stem, t in times.items() if since is None or t < since}

    def poll(self) -> Snapshot:
        """Read what is new and return the current state."""
        # Journals first: if a pack ends in the meantime, its results are found in the parts.
        journals, parts = journals_in(self._folder.journals), self._part_times()
        for stem in self._journals.keys() - (journals.keys() - parts.keys()):
            del self._journals[stem]
        for stem in self._results.keys() - parts.keys() - journals.keys():
            del self._results[stem]  # compacted or moved away
        for stem, path in journals.items():
            if stem not in parts:
                self._read_journal(stem, path)
        for stem in sorted(parts.keys() - self._parts, key=parts.__getitem__):  # the oldest first
            self._read_part(stem)
        self._parts = set(parts)
        self._notes |= dict.fromkeys(read_log(self._folder))
        self._polled = True
        times = [*parts.values(), *(journal.modified for journal in self._journals.values())]
        return Snapshot(
            self._latest_results(),
            tuple(self._journals.values()),
            tuple(self._notes),
            tuple(self._unreadable.values()),
            max(times, default=None),
        )

    def _part_times(self) -> dict[str, float]:
        """Return the modification time of each part of the table `cells`, by stem."""
        times = {}
        with suppress(OSError), os.scandir(self._folder.table("cells")) as entries:
            for entry in entries:
                stem, _, suffix = entry.name.rpartition(".")
                if suffix == "parquet" and stem and stem not in self._ignored:
                    with suppress(OSError):
                        times[stem] = entry.stat().st_mtime
        return times

    def _read_journal(self, stem: str, listed: Path) -> None:
        for path in (listed, listed.with_suffix(".taken")):  # taken since the listing
            with suppress(OSError):
                previous = self._journals.get(stem, OpenJournal(None, 0.0, ()))
                writer = previous.writer or read_writer(path)
                modified = path.stat().st_mtime
                events, self._offsets[stem] = read_events(path, self._offsets.get(stem, 0))
                started = {cell.cell_id: cell for cell in previous.started}
                for event in events:
                    with suppress(ValueError):  # a damaged line
                        self._apply(stem, started, event)
                folders = path.relative_to(self._folder.journals).parts[:-1]
                expired = any(folder.endswith(TAKEN_SUFFIX) for folder in folders)
                lease = folders[0] if folders else None
                self._journals[stem] = OpenJournal(
                    writer, modified, tuple(started.values()), lease, expired
                )
                return

    def _apply(self, stem: str, started: dict[str, StartedCell], event: Event) -> None:
        cell_id, value = event.cell_id, event.value
        if event.kind == "note":
            self._notes[value] = None
        elif event.kind == "start":
            started[cell_id] = StartedCell(cell_id, int(value), 0.0, time.monotonic(), self._polled)
        elif event.kind == "at":  # all cells of a stack progress together
            progress = float(value)
            started |= {key: replace(cell, progress=progress) for key, cell in started.items()}
        elif event.kind == "done" and cell_id in started:
            attempt = started.pop(cell_id).attempt
            self._add_result(stem, cell_id, value, attempt, event.seconds)

    def _read_part(self, stem: str) -> None:
        path = part_path(self._folder, "cells", stem)
        try:
            part = read_part(path, COLUMNS)
        except DataError as error:
            self._unreadable[path] = str(error)
            return
        if not set(part.column_names) >= REQUIRED_COLUMNS:
            self._unreadable[path] = f"{path}: not a part of this sweep's table `cells`"
            return
        for row in part.to_pylist():
            seconds = math.nan if row.get("seconds") is None else row["seconds"]
            details = seconds, row.get("outcome_reason"), row.get("engine"), row.get("code")
            self._add_result(stem, row["cell_id"], row["outcome"], row["attempt"], *details)

    def _add_result(
        self, stem: str, cell_id: str, outcome: str, attempt: int, *details: Any
    ) -> None:
        order = self._order.setdefault((cell_id, attempt), len(self._order))
        result = Result(outcome, attempt, stem not in self._old, order, *details)
        self._results.setdefault(stem, {})[cell_id] = result

    def _latest_results(self) -> dict[str, Result]:
        return latest_attempts(
            (cell_id, result.attempt, result)
            for results in self._results.values()
            for cell_id, result in results.items()
        )
