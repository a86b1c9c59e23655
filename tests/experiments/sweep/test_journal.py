"""Journals: damage costs only the lines that it hits."""

from __future__ import annotations

import errno
import math
import os
import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.atomic_write import atomic_write
from experiments.result import CellResult
from experiments.sweep.store.journal import (
    Event,
    Journal,
    Writer,
    read_events,
    read_results,
    read_writer,
)
from experiments.sweep.store.process import ProcessId
from fanin.errors import FaninError

EXTREME_VALUES = [math.inf, -math.inf, 0.1, 5e-324, 1.7976931348623157e308, -0.0]


def result(name: str, outcome: str = "ok") -> CellResult:
    row = {"cell_id": name, "outcome": outcome, "note": "tab\tand\nline"}
    return CellResult(
        row, {"curves": {"step": list(range(len(EXTREME_VALUES))), "value": EXTREME_VALUES}}
    )


def write_journal(path: Path, *names: str) -> bytes:
    journal = Journal(path)
    for name in names:
        journal.start(name, 1)
        journal.done(result(name))
    journal.close()
    return path.read_bytes()


def test_committed_results_are_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    write_journal(path, "x", "y")
    results = read_results(path)
    assert results == [result("x"), result("y")]
    assert math.copysign(1, results[0].tables["curves"]["value"][-1]) == -1
    writer = read_writer(path)
    assert writer is not None
    assert writer.process.pid == os.getpid()
    kinds = [(event.kind, event.cell_id) for event in read_events(path)[0]]
    assert kinds == [("start", "x"), ("done", "x"), ("start", "y"), ("done", "y")]


def test_journal_records_its_writer(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal", {"device": "cuda:1", "threads": 1})
    journal.close()
    writer = read_writer(journal.path)
    assert writer == Writer(ProcessId.current(), {"device": "cuda:1", "threads": 1})
    process = writer.process
    assert process.is_running()
    assert replace(process, started=1.0).is_running() is False, "a reused process number"
    assert replace(process, host="elsewhere").is_running() is None


@pytest.mark.parametrize("text", ["plain", 'tab\tline\n\\ "quoted"', "\u03c3 \udc80", ""])
def test_note_round_trips(tmp_path: Path, text: str) -> None:
    journal = Journal(tmp_path / "a.journal")
    journal.note(text)
    journal.close()
    assert read_events(journal.path)[0] == [Event("note", "", text)]


def test_only_finished_cells_and_close_call_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, syncs = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(os, "fsync", lambda _: syncs.append(clock[0]))
    journal = Journal(tmp_path / "a.journal")
    for _ in range(10):  # cells of a sixteenth of a second
        journal.start("x", 1)
        clock[0] += 1 / 16
        journal.done(result("x"))
    assert len(syncs) == 2
    clock[0] += 1.0
    journal.progress("x", 1, 2)  # flushes earlier cells even if the next one takes hours
    assert len(syncs) == 3
    clock[0] += 1.0
    journal.progress("x", 2, 2)
    assert len(syncs) == 3
    journal.close()
    assert len(syncs) == 4


def test_nan_survives_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal")
    journal.done(CellResult({"cell_id": "x", "outcome": "ok", "loss": math.nan}, {}))
    journal.close()
    assert math.isnan(read_results(journal.path)[0].row["loss"])


def test_truncation_keeps_committed_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    content = write_journal(path, "x", "y", "z")
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        finished = [result.row["cell_id"] for result in read_results(path)]
        lines = content[:length].split(b"\n")[:-1]
        assert finished == ["x", "y", "z"][: sum(line.startswith(b"done") for line in lines)]
        events, _ = read_events(path)
        assert [e.cell_id for e in events if e.kind == "done"] == finished


@given(place=st.integers(min_value=0), byte=st.integers(0, 255))
def test_damaged_byte_costs_at_most_one_cell(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    path = tmp_path_factory.mktemp("j") / "a.journal"
    content = bytearray(write_journal(path, "x", "y", "z"))
    content[place % len(content)] = byte
    path.write_bytes(content)
    finished = [result.row["cell_id"] for result in read_results(path)]
    assert len(finished) >= 2
    events, _ = read_events(path)
    assert len([e for e in events if e.kind == "done"]) == len(finished)
    read_writer(path)


def test_line_with_a_wrong_checksum_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    content = write_journal(path, "x", "y")
    path.write_bytes(content.replace(b'"cell_id": "x"', b'"cell_id": "w"'))
    assert [result.row["cell_id"] for result in read_results(path)] == ["y"]
    done = [event for event in read_events(path)[0] if event.kind == "done"]
    assert done == [Event("done", "y", "ok")]


@pytest.mark.parametrize("content", [b"", b"\n", b"done", b"start\tx", b"\xff\xfe\n\t\t\t\t\n"])
def test_journal_without_a_committed_line_is_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(content)
    assert read_results(path) == []
    assert read_events(path)[0] == []
    assert read_writer(path) is None


def test_incremental_reading_sees_each_line_once(tmp_path: Path) -> None:
    path, growing = tmp_path / "a.journal", tmp_path / "b.journal"
    content = write_journal(path, "x", "y")
    all_events, offset = [], 0
    for length in range(0, len(content) + 7, 7):
        growing.write_bytes(content[:length])
        events, after = read_events(growing, offset)
        assert after >= offset
        all_events, offset = all_events + events, after
    assert all_events == read_events(path)[0]
    assert offset == len(content)


def test_deleted_journal_is_not_owned(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal")
    assert journal.is_owned()
    journal.path.unlink()
    assert not journal.is_owned()
    journal.close()


def test_journal_refuses_an_existing_file(tmp_path: Path) -> None:
    Journal(tmp_path / "a.journal").close()
    with pytest.raises(FaninError, match=r"a\.journal: can't be written"):
        Journal(tmp_path / "a.journal")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_raises_one_line_and_keeps_results(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal")
    journal.done(result("x"))
    journal._file.close()
    with Path("/dev/full").open("wb", buffering=0) as full:
        journal._file = full
        with pytest.raises(
            FaninError, match=r"No space left on device.*run the same command again"
        ):
            journal.done(result("y"))
    assert [result.row["cell_id"] for result in read_results(journal.path)] == ["x"]


def test_truncated_line_does_not_damage_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 5, hard))
    try:
        with pytest.raises(FaninError, match="can't be written"):
            journal.done(result("x"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.done(result("y"))
    journal.close()
    assert b"done\t\ndone\ty" in journal.path.read_bytes()
    assert [result.row["cell_id"] for result in read_results(journal.path)] == ["y"]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_failed_atomic_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "table" / "part"
    atomic_write(path, b"old")
    monkeypatch.setattr(step, full)
    with pytest.raises(FaninError, match=r"part: can't be written \(No space left on device"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
