"""A sweep's status is right while it runs, after a crash and at its end; asking changes nothing."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sweep_process import PATIENCE, Site, finish, gone, site, until

from experiments import status
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.paths import SweepFolder

CELLS = 6
GRID = (f"init.number=range({CELLS})", "runner.pack_cells=3")


@pytest.fixture
def here(tmp_path: Path) -> Site:
    return site(tmp_path)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A sweep that has ended well."""
    there = site(tmp_path_factory.mktemp("once"))
    finish(there.start(*GRID, "runner=inline"))
    return there


@pytest.fixture
def ended(once: Site, tmp_path: Path) -> Site:
    """A copy of it, to do with as one likes."""
    shutil.copytree(once.folder.root, tmp_path / "s")
    return Site(tmp_path)


def asked(here: Site, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON of `python -m experiments.status s --json`."""
    capsys.readouterr()
    code = told("s", f"--results={here.root}", "--json")
    return code, json.loads(capsys.readouterr().out)


def told(*words: str) -> int:
    try:
        status.main(words)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def contents(here: Site) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in here.folder.root.rglob("*") if path.is_file()}


def test_a_sweep_is_seen_while_it_runs_after_it_is_killed_and_when_it_has_ended(
    here: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    here.tell("hold-1")
    here.tell("hold-4")
    here.tell("trouble-0", "raise")
    sweep = here.start(*GRID, "runner.workers=2")
    until(lambda: len(here.held()) == 2, sweep)
    until(lambda: here.runs(3), sweep)  # the other worker's first cell
    workers = here.held()

    before = contents(here)
    code, seen = asked(here, capsys)
    assert contents(here) == before
    assert code == 1
    assert seen["state"] == "running"
    assert (seen["launcher"]["pid"], seen["launcher"]["alive"]) == (sweep.pid, True)
    assert seen["cells"] == sum(seen["counts"].values()) == CELLS
    assert seen["counts"] == {
        "done": 1,
        "failed": 1,
        "interrupted": 0,
        "running": 2,
        "missing": 2,
    }
    assert seen["outcomes"] == {"error": 1, "ok": 1}
    assert {
        (worker["pid"], cell["label"]) for worker in seen["workers"] for cell in worker["cells"]
    } == {(workers[1], "number=1"), (workers[4], "number=4")}
    assert seen["cells_per_minute"] > 0
    assert datetime.fromisoformat(seen["expected_end"]) >= datetime.fromisoformat(seen["now"])
    (failure,) = seen["failures"]
    assert failure["label"] == "number=0"
    assert failure["reason"] == "ValueError: no luck with 0"
    assert "no luck with 0" in Path(failure["traceback"]).read_text()

    sweep.kill()
    finish(sweep)
    until(lambda: all(gone(pid) for pid in workers.values()))
    code, seen = asked(here, capsys)
    assert code == 1
    assert seen["state"] == "stopped"
    assert seen["launcher"]["alive"] is False
    assert seen["counts"] == {
        "done": 1,
        "failed": 1,
        "interrupted": 2,
        "running": 0,
        "missing": 2,
    }
    assert seen["workers"] == []
    assert seen["expected_end"] is None

    here.forget("hold-*", "trouble-*")
    finish(here.start(*GRID, "runner.workers=2", "sweep.retry=[error]"))
    code, seen = asked(here, capsys)
    assert code == 0
    assert (seen["state"], seen["launcher"]) == ("finished", None)
    assert seen["outcomes"] == {"ok": CELLS}
    assert seen["engines"] == {"serial": CELLS}
    assert sum(seen["codes"].values()) == CELLS


def test_watching_on_a_terminal_ends_with_the_sweep(here: Site) -> None:
    here.tell("hold-1")
    sweep = here.start(*GRID, "runner=inline")
    until(lambda: here.held(), sweep)
    watcher, terminal = watched(here.root)
    here.forget("hold-*")
    finish(sweep)
    seen = rest_of(terminal)
    assert watcher.wait(PATIENCE) == 0
    last = seen.rpartition("s: finished")[2]
    assert f"{CELLS} of {CELLS} cells" in last
    assert f"{CELLS} ok" in last


def test_one_may_stop_watching(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "s")
    with acquire_sweep_lock(folder):  # this process runs it, for all that a watcher can know
        watcher, terminal = watched(tmp_path)
        watcher.send_signal(signal.SIGINT)
        assert "Traceback" not in rest_of(terminal)
        assert watcher.wait(PATIENCE) == 0


def watched(results: Path) -> tuple[subprocess.Popen[bytes], int]:
    """`python -m experiments.status s --watch` in a pseudo-terminal, when it shows that it runs."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "experiments.status", "s", f"--results={results}", "--watch"]
    watcher = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"running: process" not in seen:
        seen += os.read(ours, 1 << 16)
    return watcher, ours


def rest_of(terminal: int) -> str:
    """What is still written to a pseudo-terminal until its last writer is gone."""
    seen = b""
    with suppress(OSError):  # as Linux says it
        while more := os.read(terminal, 1 << 16):
            seen += more
    return seen.decode()


def test_spoilt_files_are_named_and_their_cells_missing(
    ended: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    part = next(ended.folder.table("cells").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    with ended.folder.plan.open("a") as plan:
        plan.write('{"cell_id": "torn')
    code, seen = asked(ended, capsys)
    assert code == 0
    assert (seen["state"], seen["counts"]["missing"]) == ("stopped", 3)
    named = "\n".join(seen["warnings"])
    assert str(part) in named
    assert f"{ended.folder.plan}: 1 lines can't be read" in named


def test_files_from_a_time_to_come_have_no_negative_age(
    ended: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with acquire_sweep_lock(ended.folder):
        journal = Journal(ended.folder.journals / "p.journal", {"device": "cpu"})
        journal.start("another", 1)
        later = datetime.now().timestamp() + 86400  # as if the clock had been put back a day
        for path in [ended.folder.provenance, ended.folder.launcher, journal.path]:
            os.utime(path, (later, later))
        seen = asked(ended, capsys)[1]
        assert (seen["state"], seen["counts"]["running"]) == ("running", 1)
        assert seen["elapsed_seconds"] == 0
        assert seen["launcher"]["heard_seconds"] == 0
        assert [worker["heard_seconds"] for worker in seen["workers"]] == [0]


def test_a_launcher_on_another_host_is_at_work_while_it_gives_signs(
    ended: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    note = ended.folder.launcher
    note.write_text(json.dumps({"host": "elsewhere", "pid": 7, "started": None}))
    seen = asked(ended, capsys)[1]
    assert (seen["state"], seen["launcher"]["alive"]) == ("running", None)
    os.utime(note, (0, 0))
    assert asked(ended, capsys)[1]["state"] == "finished"


def test_without_a_name_all_sweeps_are_listed(
    ended: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none").mkdir()
    assert told(f"--results={tmp_path}/none") == 0
    assert "no sweeps in" in capsys.readouterr().out
    assert told(f"--results={tmp_path}") == 0
    header, line = capsys.readouterr().out.splitlines()
    words = ["sweep", "cells", "done", "failed", "missing", "state", "last", "change"]
    assert header.split() == words
    assert line.split()[:6] == ["s", str(CELLS), str(CELLS), "0", "0", "finished"]


def test_an_unknown_sweep_is_told_with_the_nearest_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "he2015").mkdir()
    (tmp_path / "he2015" / "cells.jsonl").touch()
    assert told("he2016", f"--results={tmp_path}") == 2
    assert "no such sweep; did you mean he2015?" in capsys.readouterr().err
