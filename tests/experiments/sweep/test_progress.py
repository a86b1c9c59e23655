"""Progress counts each finished cell once, and suits where it is shown."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from experiments.cell import CellResult
from experiments.sweep import progress
from experiments.sweep.progress import Tally, shown
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.store.paths import SweepFolder


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "s")


def done(journal: Journal, cell: str, outcome: str = "ok") -> None:
    journal.start(cell, 1)
    row = {
        "cell_id": cell,
        "outcome": outcome,
        "attempt": 1,
        "seconds": 1.0,
        "outcome_reason": None,
    }
    journal.done(CellResult(row, {}))


def test_every_finished_cell_is_counted_once(folder: SweepFolder) -> None:
    earlier = Journal(folder.journals / "earlier.journal")
    done(earlier, "old")
    commit_journal(folder, earlier.path)
    tally = Tally(folder)
    assert tally.look() == 0  # cells of earlier runs are not this one's

    first = Journal(folder.journals / "first.journal")
    done(first, "a")
    assert tally.look() == 1
    assert tally.look() == 1
    done(first, "b", "diverged")
    left = first.path.read_bytes()
    commit_journal(folder, first.path)  # its last cell was never seen in the journal
    assert tally.look() == 2
    first.path.write_bytes(left)  # parts are written, the journal is not yet gone
    assert tally.look() == 2
    second = Journal(folder.journals / "second.journal")
    done(second, "c")
    commit_journal(folder, second.path)  # begun and ended between two looks
    assert tally.look() == 3
    assert tally.describe() == "2 ok, 1 diverged"


def test_only_what_is_new_in_a_journal_is_read(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = progress.read_events

    def noted(path: Path, offset: int = 0) -> object:
        asked.append(offset)
        return read(path, offset)

    monkeypatch.setattr(progress, "read_events", noted)
    tally, journal = Tally(folder), Journal(folder.journals / "p.journal")
    ends = [0]
    for cell in "abc":
        done(journal, cell)
        tally.look()
        ends.append(journal.path.stat().st_size)
    assert asked == ends[:-1]


def test_in_a_log_progress_is_plain_lines(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    text = io.StringIO()
    journal = Journal(folder.journals / "p.journal")
    with shown(folder, 4, Console(file=text, force_terminal=False, width=200)) as tick:
        tick()
        done(journal, "a")
        tick()
        journal.start("b", 1)
        journal.beat("b", 30, 120)
        tick()
        done(journal, "b", "diverged")
        tick()
    lines = text.getvalue().splitlines()
    assert [re.sub(r"about \d+ s", "about T", line) for line in lines] == [
        "0 of 4 cells",
        "1 of 4 cells (1 ok), about T left",
        "1 of 4 cells (1 ok, at work: 25%), about T left",
        "2 of 4 cells (1 ok, 1 diverged), about T left",
    ]


def test_on_a_terminal_progress_is_a_bar_that_ends_full(folder: SweepFolder) -> None:
    text = io.StringIO()
    journal = Journal(folder.journals / "p.journal")
    console = Console(file=text, force_terminal=True, width=200, color_system=None)
    with shown(folder, 2, console) as tick:
        done(journal, "a")
        tick()
        done(journal, "b")
        commit_journal(folder, journal.path)
        tick()
    assert "2/2 cells" in text.getvalue()
    assert "2 ok" in text.getvalue()
