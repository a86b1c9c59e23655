"""A journal that was cut off or spoilt anywhere costs the lines that were hit, and nothing else."""

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

ODD = [math.inf, -math.inf, 0.1, 5e-324, 1.7976931348623157e308, -0.0]


def result(name: str, outcome: str = "ok") -> CellResult:
    row = {"cell_id": name, "outcome": outcome, "note": "tab\tand\nline"}
    return CellResult(row, {"curves": {"step": list(range(len(ODD))), "value": ODD}})


def written(path: Path, *names: str) -> bytes:
    journal = Journal(path)
    for name in names:
        journal.start(name, 1)
        journal.done(result(name))
    journal.close()
    return path.read_bytes()


def test_what_was_committed_is_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    written(path, "x", "y")
    found = read_results(path)
    assert found == [result("x"), result("y")]
    assert math.copysign(1, found[0].tables["curves"]["value"][-1]) == -1
    writer = read_writer(path)
    assert writer is not None
    assert writer.process.pid == os.getpid()
    kinds = [(event.kind, event.cell_id) for event in read_events(path)[0]]
    assert kinds == [("start", "x"), ("done", "x"), ("start", "y"), ("done", "y")]


def test_a_writer_says_who_it_is(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal", {"device": "cuda:1", "threads": 1})
    journal.close()
    writer = read_writer(journal.path)
    assert writer == Writer(ProcessId.current(), {"device": "cuda:1", "threads": 1})
    process = writer.process
    assert process.is_running()
    assert replace(process, started=1.0).is_running() is False, "another that got its number"
    assert replace(process, host="elsewhere").is_running() is None


@pytest.mark.parametrize("text", ["plain", 'tab\tline\n\\ "quoted"', "\u03c3 \udc80", ""])
def test_a_note_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    journal = Journal(tmp_path / "a.journal")
    journal.note(text)
    journal.close()
    assert read_events(journal.path)[0] == [Event("note", "", text)]


def test_only_finished_cells_and_the_end_wait_for_the_disk(
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
    journal.progress("x", 1, 2)  # what was done is safe even if the next cell takes hours
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


def test_cut_anywhere_only_whole_lines_count(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    whole = written(path, "x", "y", "z")
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        finished = [found.row["cell_id"] for found in read_results(path)]
        lines = whole[:length].split(b"\n")[:-1]
        assert finished == ["x", "y", "z"][: sum(line.startswith(b"done") for line in lines)]
        events, _ = read_events(path)
        assert [e.cell_id for e in events if e.kind == "done"] == finished


@given(place=st.integers(min_value=0), byte=st.integers(0, 255))
def test_a_spoilt_byte_costs_at_most_one_cell(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    path = tmp_path_factory.mktemp("j") / "a.journal"
    whole = bytearray(written(path, "x", "y", "z"))
    whole[place % len(whole)] = byte
    path.write_bytes(whole)
    finished = [found.row["cell_id"] for found in read_results(path)]
    assert len(finished) >= 2
    events, _ = read_events(path)
    assert len([e for e in events if e.kind == "done"]) == len(finished)
    read_writer(path)


def test_a_wrong_checksum_is_no_finished_cell_for_any_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    whole = written(path, "x", "y")
    path.write_bytes(whole.replace(b'"cell_id": "x"', b'"cell_id": "w"'))
    assert [found.row["cell_id"] for found in read_results(path)] == ["y"]
    done = [event for event in read_events(path)[0] if event.kind == "done"]
    assert done == [Event("done", "y", "ok")]


@pytest.mark.parametrize("content", [b"", b"\n", b"done", b"start\tx", b"\xff\xfe\n\t\t\t\t\n"])
def test_a_journal_without_a_whole_line_is_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(content)
    assert read_results(path) == []
    assert read_events(path)[0] == []
    assert read_writer(path) is None


def test_reading_on_sees_each_line_once_however_the_file_grows(tmp_path: Path) -> None:
    path, growing = tmp_path / "a.journal", tmp_path / "b.journal"
    whole = written(path, "x", "y")
    seen, offset = [], 0
    for length in range(0, len(whole) + 7, 7):
        growing.write_bytes(whole[:length])
        events, after = read_events(growing, offset)
        assert after >= offset
        seen, offset = seen + events, after
    assert seen == read_events(path)[0]
    assert offset == len(whole)


def test_a_journal_taken_over_is_no_longer_held(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal")
    assert journal.is_owned()
    journal.path.unlink()
    assert not journal.is_owned()
    journal.close()


def test_two_packs_cannot_write_one_journal(tmp_path: Path) -> None:
    Journal(tmp_path / "a.journal").close()
    with pytest.raises(FaninError, match=r"a\.journal: can't be written"):
        Journal(tmp_path / "a.journal")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_said_in_a_line_and_spoils_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.journal")
    journal.done(result("x"))
    journal._file.close()
    with Path("/dev/full").open("wb", buffering=0) as full:
        journal._file = full
        with pytest.raises(FaninError, match=r"No space left on device.*the same command goes on"):
            journal.done(result("y"))
    assert [found.row["cell_id"] for found in read_results(journal.path)] == ["x"]


def test_a_line_that_was_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
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
    assert [found.row["cell_id"] for found in read_results(journal.path)] == ["y"]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_half_one(
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
