"""State of each cell, read from journals and parts, also after crashes."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored_parts import read_parts

from experiments.result import CellResult
from experiments.sweep.store import parquet, tables
from experiments.sweep.store.journal import Journal, journals_in
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import CellState, read_states


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path)


def journal(folder: SweepFolder, stem: str, *cells: str, attempt: int = 1) -> Path:
    writer = Journal(folder.journals / f"{stem}.journal")
    for cell in cells:
        writer.start(cell, attempt)
        row = {
            "cell_id": cell,
            "outcome": "ok",
            "attempt": attempt,
            "seconds": 2.0,
            "outcome_reason": None,
        }
        writer.done(CellResult(row, {"curves": {"step": [0], "metric": ["m"], "value": [1.0]}}))
    writer.start("never-finished", attempt)
    writer.close()
    return writer.path


def commit_all(folder: SweepFolder) -> None:
    for path in journals_in(folder.journals).values():
        commit_journal(folder, path)


def test_cell_counts_once_its_line_is_committed(folder: SweepFolder) -> None:
    assert read_states(folder) == {}
    journal(folder, "p", "x", "y")
    states = read_states(folder)
    assert {cell: (state.outcome, state.stored) for cell, state in states.items()} == {
        "x": ("ok", False),
        "y": ("ok", False),
    }
    commit_all(folder)
    assert read_states(folder) == {"x": CellState("ok", 1, 2.0), "y": CellState("ok", 1, 2.0)}
    assert not list(folder.journals.iterdir())


@pytest.mark.parametrize("table", ["curves", "cells"])
def test_commit_recovers_from_a_crash(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    path = journal(folder, "p", "x", "y")
    write = parquet.atomic_write

    def crash_after(part: Path, data: bytes) -> None:
        write(part, data)
        if part.parent.name == table:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(parquet, "atomic_write", crash_after)
        with pytest.raises(KeyboardInterrupt):
            commit_journal(folder, path)
    assert path.with_suffix(".taken").exists()
    assert {state.attempt for state in read_states(folder).values()} == {1}
    commit_all(folder)
    assert set(read_states(folder)) == {"x", "y"}
    assert [part.num_rows for _, part in read_parts(folder, "curves")] == [2]
    assert not list(folder.journals.iterdir())


def test_pack_that_ends_during_a_scan_is_found(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = journal(folder, "p", "x")
    original = tables.journals_in

    def list_then_commit(journals_folder: Path) -> dict[str, Path]:
        journals = original(journals_folder)
        if path.exists():
            commit_journal(folder, path)
        return journals

    monkeypatch.setattr(tables, "journals_in", list_then_commit)
    assert set(read_states(folder)) == {"x"}


def test_latest_attempt_counts(folder: SweepFolder) -> None:
    commit_journal(folder, journal(folder, "z", "x"))
    commit_journal(folder, journal(folder, "a", "x", attempt=2))
    assert read_states(folder)["x"].attempt == 2


@pytest.mark.parametrize("suffix", [".journal", ".taken"])
def test_attempt_in_a_journal_counts(folder: SweepFolder, suffix: str) -> None:
    path = journal(folder, "p", "x", attempt=3)
    path.rename(path.with_suffix(suffix))
    assert read_states(folder)["x"].attempt == 3


def test_cells_of_a_damaged_pack_are_missing(folder: SweepFolder) -> None:
    commit_journal(folder, journal(folder, "p", "x"))
    commit_journal(folder, journal(folder, "q", "y"))
    (folder.table("curves") / "p.parquet").unlink()
    assert set(read_states(folder)) == {"y"}
