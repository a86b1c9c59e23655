"""Only the process that takes a journal writes its pack's tables."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stored_packs import loaded, result

from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.journal import Journal, journals_in, read_writer, take_journal
from experiments.sweep.store.parquet import commit_journal, write_results
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import read_states

PACKS = 100


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(tmp_path / "s")
    folder.journals.mkdir(parents=True)
    folder.plan.touch()
    write_format(folder)
    return folder


def _take_all(folder: SweepFolder, process_index: int, ready: Any, took: Any) -> None:
    ready.wait()
    for number in range(PACKS):
        if take_journal(folder.journals / f"{number}.journal") is not None:
            took.put((number, process_index))
            write_results(folder, str(number), [result(f"cell-{number}", by=process_index)])


def test_only_one_process_takes_a_journal(folder: SweepFolder) -> None:
    for number in range(PACKS):
        Journal(folder.journals / f"{number}.journal").close()
    context = multiprocessing.get_context("fork")
    ready, took = context.Barrier(2), context.SimpleQueue()
    takers = [context.Process(target=_take_all, args=(folder, n, ready, took)) for n in range(2)]
    for process in takers:
        process.start()
    won = dict(took.get() for _ in range(PACKS))
    for process in takers:
        process.join()
    assert [process.exitcode for process in takers] == [0, 0]
    assert took.empty()
    results = loaded(folder).cells
    assert dict(zip(results.cell_id, results.by, strict=True)) == {
        f"cell-{number}": process_index for number, process_index in won.items()
    }


ORPHAN = """
import sys
from pathlib import Path
from stored_packs import result
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.store.paths import SweepFolder
folder = SweepFolder(Path(sys.argv[1]))
journal = Journal(folder.journals / "p.journal", {"device": "cpu"})
journal.done(result("x"))
print("written", flush=True)
input()
journal.done(result("y"))
journal.close()
commit_journal(folder, journal.path)
"""


def test_writer_without_its_journal_writes_no_table(folder: SweepFolder) -> None:
    arguments = [sys.executable, "-c", ORPHAN, str(folder.root)]
    with subprocess.Popen(
        arguments,
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdout.readline() == "written\n"
        path = folder.journals / "p.journal"
        writer = read_writer(path)
        assert writer is not None
        assert (writer.process.pid, writer.about) == (orphan.pid, {"device": "cpu"})
        assert writer.process.is_running()
        commit_journal(folder, path)  # another launcher considers it dead
        parts = {p: p.read_bytes() for p in folder.root.rglob("*.parquet")}
        orphan.communicate("\n")
    assert orphan.returncode == 0
    assert writer.process.is_running() is False
    assert {p: p.read_bytes() for p in folder.root.rglob("*.parquet")} == parts
    assert set(read_states(folder)) == set(loaded(folder).cells.cell_id) == {"x"}
    assert journals_in(folder.journals) == {}


def test_taken_journal_of_a_dead_process_is_committed(folder: SweepFolder) -> None:
    journal = Journal(folder.journals / "p.journal")
    journal.done(result("x"))
    journal.close()
    taken = take_journal(journal.path)
    assert taken is not None
    commit_journal(folder, journal.path)  # by its writer, which has lost it
    assert set(read_states(folder)) == {"x"}
    assert not list(folder.root.rglob("*.parquet"))
    commit_journal(folder, taken)
    assert set(loaded(folder).cells.cell_id) == {"x"}
    assert journals_in(folder.journals) == {}
