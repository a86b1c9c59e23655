"""Progress counts each finished cell once, and suits where it is shown."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from experiments.result import CellResult
from experiments.sweep.status import progress, snapshot
from experiments.sweep.status.progress import shown
from experiments.sweep.status.reader import Watch
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.store.paths import SweepFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    monkeypatch.setattr(progress, "pause", lambda took: 0.0)
    folder = SweepFolder(tmp_path / "s")
    write_format(folder)
    return folder


def done(journal: Journal, cell: str, outcome: str = "ok", reason: str | None = None) -> None:
    journal.start(cell, 1)
    row = {
        "cell_id": cell,
        "outcome": outcome,
        "attempt": 1,
        "seconds": 1.0,
        "outcome_reason": reason,
    }
    journal.done(CellResult(row, {}))


def plan(folder: SweepFolder, *seeds: int) -> None:
    """Cells `cell0`, `cell1`, ... that differ in their seed."""
    config = {"optim": {"_target_": "SGD"}}
    lines = [
        {"cell_id": f"cell{seed}", "assignment": {"seed": seed}, "config": config} for seed in seeds
    ]
    folder.plan.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_every_finished_cell_is_counted_once(folder: SweepFolder) -> None:
    earlier = Journal(folder.journals / "earlier.journal")
    done(earlier, "old")
    commit_journal(folder, earlier.path)
    watch = Watch(folder, ["old", *"abcd"])

    def finished() -> int:
        return sum(watch.look().outcomes.values())

    assert finished() == 0  # what was done in earlier runs is not this one's

    first = Journal(folder.journals / "first.journal")
    done(first, "a")
    assert finished() == 1
    assert finished() == 1
    done(first, "b", "diverged")
    left = first.path.read_bytes()
    commit_journal(folder, first.path)  # its last cell was never seen in the journal
    assert finished() == 2
    first.path.write_bytes(left)  # parts are written, the journal is not yet gone
    assert finished() == 2
    second = Journal(folder.journals / "second.journal")
    done(second, "c")
    commit_journal(folder, second.path)  # begun and ended between two looks
    assert finished() == 3
    assert watch.look().outcomes == {"ok": 2, "diverged": 1}


def test_only_what_is_new_in_a_journal_is_read(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = snapshot.read_events

    def noted(path: Path, offset: int = 0) -> object:
        asked.append(offset)
        return read(path, offset)

    monkeypatch.setattr(snapshot, "read_events", noted)
    watch, journal = Watch(folder, "abc"), Journal(folder.journals / "p.journal")
    ends = [0]
    for cell in "abc":
        done(journal, cell)
        watch.look()
        ends.append(journal.path.stat().st_size)
    assert asked == ends[:-1]


def test_the_cells_of_a_stack_go_along(folder: SweepFolder) -> None:
    watch, journal = Watch(folder, "abc"), Journal(folder.journals / "p.journal")
    for cell in "abc":
        journal.start(cell, 1)
    journal.done(CellResult({"cell_id": "a", "outcome": "diverged"}, {}))
    journal.progress("a", 30, 120)  # the stack's first speaks for all, be it gone
    (worker,) = watch.look().workers
    assert {cell.cell_id: cell.share for cell in worker.cells} == {"b": 0.25, "c": 0.25}


def test_in_a_log_progress_is_plain_lines(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    text = io.StringIO()
    journal = Journal(folder.journals / "p.journal")
    with shown(folder, "abcd", Console(file=text, force_terminal=False, width=200)) as tick:
        done(journal, "a")
        tick()
        journal.start("b", 1)
        journal.progress("b", 30, 120)
        tick()
        done(journal, "b", "diverged")
    lines = [re.sub(r", [\d,.]+ cells/\w+.*|, [\d.]+ s so.*", "", x) for x in lines_of(text)]
    assert lines == [
        "0 of 4 cells",
        "1 of 4 cells (1 ok)",
        "1 of 4 cells (1 ok, 1 running)",
        "2 of 4 cells (1 ok, 1 diverged)",
        "2 of 4 cells (1 ok, 1 diverged)",
    ]


def test_a_log_tells_failures_and_notes_as_they_come_and_alike_ones_once(
    folder: SweepFolder,
) -> None:
    plan(folder, 0, 1, 2, 3)
    text = io.StringIO()
    journal = Journal(folder.journals / "p.journal")
    with shown(
        folder, [f"cell{n}" for n in range(4)], Console(file=text, force_terminal=False)
    ) as tick:
        journal.note("this worker runs other code")
        folder.errors.mkdir()
        for number in range(3):
            path = folder.errors / f"cell{number}.1.txt"
            said = "ValueError: [red]no luck[/red]\nnor will there be"
            path.write_text(f"{said}\n\nTraceback ...\n  File ...\n{said}\n")
            done(journal, f"cell{number}", "error", "ValueError: [red]no luck[/red]")
        tick()
        tick()
    lines = lines_of(text)
    assert lines[:-1] == [
        "warning: this worker runs other code",
        "error in seed=0: ValueError: [red]no luck[/red], and 2 alike; "
        f"traceback: {folder.errors}/cell0.1.txt",
    ]
    assert lines[-1].startswith("3 of 4 cells (3 error)")


def test_on_a_terminal_progress_is_a_screen_of_which_one_line_stays(folder: SweepFolder) -> None:
    text = io.StringIO()
    journal = Journal(folder.journals / "p.journal")
    console = Console(file=text, force_terminal=True, width=200, height=40, color_system=None)
    with shown(folder, "ab", console) as tick:
        done(journal, "a")
        tick()
        done(journal, "b")
        commit_journal(folder, journal.path)
        tick()
    assert "1 of 2 cells" in text.getvalue()
    assert "2 of 2 cells (2 ok), " in lines_of(text)[-1]


def lines_of(text: io.StringIO) -> list[str]:
    return text.getvalue().splitlines()
