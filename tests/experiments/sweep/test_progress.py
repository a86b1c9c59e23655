"""Progress of a running sweep: counts of cells, log lines and the live screen."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from experiments.result import CellResult
from experiments.sweep.status import progress, snapshot
from experiments.sweep.status.progress import print_progress, show_progress
from experiments.sweep.status.reader import StatusReader
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.store.paths import SweepFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    monkeypatch.setattr(progress, "read_interval", lambda took: 0.0)
    folder = SweepFolder(tmp_path / "s")
    write_format(folder)
    return folder


def finish_cell(
    journal: Journal, cell: str, outcome: str = "ok", reason: str | None = None
) -> None:
    journal.start(cell, 1)
    row = {
        "cell_id": cell,
        "outcome": outcome,
        "attempt": 1,
        "seconds": 1.0,
        "outcome_reason": reason,
    }
    journal.done(CellResult(row, {}))


def write_plan(folder: SweepFolder, *seeds: int) -> None:
    """Plan the cells `cell0`, `cell1`, ... that differ in their seed."""
    config = {"optim": {"_target_": "SGD"}}
    lines = [
        {"cell_id": f"cell{seed}", "assignment": {"seed": seed}, "config": config} for seed in seeds
    ]
    folder.plan.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_every_finished_cell_is_counted_once(folder: SweepFolder) -> None:
    earlier = Journal(folder.journals / "earlier.journal")
    finish_cell(earlier, "old")
    commit_journal(folder, earlier.path)
    reader = StatusReader(folder, ["old", *"abcd"])

    def finished() -> int:
        return sum(reader.read().outcomes.values())

    assert finished() == 0  # cells finished in earlier runs do not count

    first = Journal(folder.journals / "first.journal")
    finish_cell(first, "a")
    assert finished() == 1
    assert finished() == 1
    finish_cell(first, "b", "diverged")
    content = first.path.read_bytes()
    commit_journal(folder, first.path)  # its last cell was not read from the journal
    assert finished() == 2
    first.path.write_bytes(content)  # the part is written, the journal not yet deleted
    assert finished() == 2
    second = Journal(folder.journals / "second.journal")
    finish_cell(second, "c")
    commit_journal(folder, second.path)  # started and ended between two reads
    assert finished() == 3
    assert reader.read().outcomes == {"ok": 2, "diverged": 1}


def test_a_cancelled_cell_is_not_progress(folder: SweepFolder) -> None:
    journal = Journal(folder.journals / "p.journal")
    reader = StatusReader(folder, "abcd")
    for cell, outcome in zip("abc", ("ok", "error", "cancelled"), strict=True):
        finish_cell(journal, cell, outcome)
    commit_journal(folder, journal.path)
    text = io.StringIO()
    print_progress(reader, Console(file=text, width=200))
    assert text.getvalue().startswith("2 of 4 cells (1 ok, 1 error, 1 cancelled)")


def test_only_new_lines_of_a_journal_are_read(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets: list[int] = []
    read = snapshot.read_events

    def recording_read(path: Path, offset: int = 0) -> object:
        offsets.append(offset)
        return read(path, offset)

    monkeypatch.setattr(snapshot, "read_events", recording_read)
    reader, journal = StatusReader(folder, "abc"), Journal(folder.journals / "p.journal")
    ends = [0]
    for cell in "abc":
        finish_cell(journal, cell)
        reader.read()
        ends.append(journal.path.stat().st_size)
    assert offsets == ends[:-1]


def test_the_cells_of_a_stack_have_the_same_progress(folder: SweepFolder) -> None:
    reader, journal = StatusReader(folder, "abc"), Journal(folder.journals / "p.journal")
    for cell in "abc":
        journal.start(cell, 1)
    journal.done(CellResult({"cell_id": "a", "outcome": "diverged"}, {}))
    journal.progress("a", 30, 120)  # the first cell reports for the stack, even after it ended
    (worker,) = reader.read().workers
    assert {cell.cell_id: cell.progress for cell in worker.cells} == {"b": 0.25, "c": 0.25}


def test_the_log_shows_plain_progress_lines(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    text = io.StringIO()
    journal = Journal(folder.journals / "p.journal")
    console, reader = Console(file=text, width=200), StatusReader(folder, "abcd")
    with show_progress(reader, console) as update:
        finish_cell(journal, "a")
        update()
        journal.start("b", 1)
        journal.progress("b", 30, 120)
        update()
        finish_cell(journal, "b", "diverged")
    print_progress(reader, console)
    lines = [re.sub(r", [\d,.]+ cells/\w+.*|, [\d.]+ s elapsed.*", "", x) for x in lines_of(text)]
    assert lines == [
        "0 of 4 cells",
        "1 of 4 cells (1 ok)",
        "1 of 4 cells (1 ok, 1 running)",
        "2 of 4 cells (1 ok, 1 diverged)",
        "2 of 4 cells (1 ok, 1 diverged)",
    ]


def test_the_log_shows_new_failures_and_notes_once(
    folder: SweepFolder,
) -> None:
    write_plan(folder, 0, 1, 2, 3)
    text = io.StringIO()
    journal = Journal(folder.journals / "p.journal")
    console, reader = Console(file=text), StatusReader(folder, [f"cell{n}" for n in range(4)])
    with show_progress(reader, console) as update:
        journal.note("this worker runs other code")
        folder.errors.mkdir()
        for number in range(3):
            path = folder.errors / f"cell{number}.1.txt"
            message = "ValueError: [red]no luck[/red]\nnor will there be"
            path.write_text(f"{message}\n\nTraceback ...\n  File ...\n{message}\n")
            finish_cell(journal, f"cell{number}", "error", "ValueError: [red]no luck[/red]")
        update()
        update()
    print_progress(reader, console)
    lines = lines_of(text)
    assert lines[:-1] == [
        "warning: this worker runs other code",
        "error in seed=0: ValueError: [red]no luck[/red], and 2 similar; "
        f"traceback: {folder.errors}/cell0.1.txt",
    ]
    assert lines[-1].startswith("3 of 4 cells (3 error)")


def test_on_a_terminal_one_line_remains_of_the_screen(folder: SweepFolder) -> None:
    text = io.StringIO()
    journal = Journal(folder.journals / "p.journal")
    console = Console(file=text, force_terminal=True, width=200, height=40, color_system=None)
    reader = StatusReader(folder, "ab")
    with show_progress(reader, console) as update:
        finish_cell(journal, "a")
        update()
        finish_cell(journal, "b")
        commit_journal(folder, journal.path)
        update()
    print_progress(reader, console)
    assert "1 of 2 cells" in text.getvalue()
    assert "2 of 2 cells (2 ok), " in lines_of(text)[-1]


def lines_of(text: io.StringIO) -> list[str]:
    return text.getvalue().splitlines()
