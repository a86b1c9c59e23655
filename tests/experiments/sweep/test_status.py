"""Status of a sweep while it runs, after a crash and at its end; reading it changes no file."""

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
from sweep_process import PATIENCE, Site, has_ended, make_site, wait_for_output, wait_until

from experiments import status
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.paths import SweepFolder

CELLS = 6
GRID = (f"init.number=range({CELLS})", "runner.pack_cells=3")


@pytest.fixture
def fresh_site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Run a sweep to its end, once for all tests."""
    finished = make_site(tmp_path_factory.mktemp("once"))
    wait_for_output(finished.start(*GRID, "runner=inline"))
    return finished


@pytest.fixture
def finished_site(finished_once: Site, tmp_path: Path) -> Site:
    """Copy the finished sweep, so that the test may change it."""
    shutil.copytree(finished_once.folder.root, tmp_path / "s")
    return Site(tmp_path)


def read_json(site: Site, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Run `python -m experiments.status s --json`; return its exit status and JSON."""
    capsys.readouterr()
    code = run_status("s", f"--results={site.root}", "--json")
    return code, json.loads(capsys.readouterr().out)


def run_status(*arguments: str) -> int:
    try:
        status.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def file_contents(site: Site) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in site.folder.root.rglob("*") if path.is_file()}


def test_status_while_running_after_a_kill_and_at_the_end(
    fresh_site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh_site.write_file("hold-1")
    fresh_site.write_file("hold-4")
    fresh_site.write_file("trouble-0", "raise")
    sweep = fresh_site.start(*GRID, "runner.workers=2")
    wait_until(lambda: len(fresh_site.held_workers()) == 2, sweep)
    wait_until(lambda: fresh_site.runs(3), sweep)  # the other worker's first cell
    workers = fresh_site.held_workers()

    before = file_contents(fresh_site)
    code, state = read_json(fresh_site, capsys)
    assert file_contents(fresh_site) == before
    assert code == 1
    assert state["state"] == "running"
    assert (state["launcher"]["pid"], state["launcher"]["alive"]) == (sweep.pid, True)
    assert state["cells"] == sum(state["counts"].values()) == CELLS
    assert state["counts"] == {
        "done": 1,
        "failed": 1,
        "interrupted": 0,
        "running": 2,
        "missing": 2,
    }
    assert state["outcomes"] == {"error": 1, "ok": 1}
    assert {
        (worker["pid"], cell["label"]) for worker in state["workers"] for cell in worker["cells"]
    } == {(workers[1], "number=1"), (workers[4], "number=4")}
    assert state["cells_per_minute"] > 0
    assert datetime.fromisoformat(state["expected_end"]) >= datetime.fromisoformat(state["now"])
    (failure,) = state["failures"]
    assert failure["label"] == "number=0"
    assert failure["reason"] == "ValueError: no luck with 0"
    assert "no luck with 0" in Path(failure["traceback"]).read_text()

    sweep.kill()
    wait_for_output(sweep)
    wait_until(lambda: all(has_ended(pid) for pid in workers.values()))
    code, state = read_json(fresh_site, capsys)
    assert code == 1
    assert state["state"] == "stopped"
    assert state["launcher"]["alive"] is False
    assert state["counts"] == {
        "done": 1,
        "failed": 1,
        "interrupted": 2,
        "running": 0,
        "missing": 2,
    }
    assert state["workers"] == []
    assert state["expected_end"] is None

    fresh_site.remove_files("hold-*", "trouble-*")
    wait_for_output(fresh_site.start(*GRID, "runner.workers=2", "sweep.retry=[error]"))
    code, state = read_json(fresh_site, capsys)
    assert code == 0
    assert (state["state"], state["launcher"]) == ("finished", None)
    assert state["outcomes"] == {"ok": CELLS}
    assert state["engines"] == {"serial": CELLS}
    assert sum(state["code_versions"].values()) == CELLS


def test_watching_in_a_terminal_ends_with_the_sweep(fresh_site: Site) -> None:
    fresh_site.write_file("hold-1")
    sweep = fresh_site.start(*GRID, "runner=inline")
    wait_until(lambda: fresh_site.held_workers(), sweep)
    watcher, terminal = start_watching(fresh_site.root)
    fresh_site.remove_files("hold-*")
    wait_for_output(sweep)
    output = read_to_end(terminal)
    assert watcher.wait(PATIENCE) == 0
    last = output.rpartition("s: finished")[2]
    assert f"{CELLS} of {CELLS} cells" in last
    assert f"{CELLS} ok" in last


def test_ctrl_c_ends_watching(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "s")
    with acquire_sweep_lock(folder):  # so this process is the launcher
        watcher, terminal = start_watching(tmp_path)
        watcher.send_signal(signal.SIGINT)
        assert "Traceback" not in read_to_end(terminal)
        assert watcher.wait(PATIENCE) == 0


def start_watching(results: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Run `experiments.status s --watch` in a pseudo-terminal until it shows a running sweep."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "experiments.status", "s", f"--results={results}", "--watch"]
    watcher = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    output = b""
    while b"running: process" not in output:
        output += os.read(master, 1 << 16)
    return watcher, master


def read_to_end(terminal: int) -> str:
    """Read a pseudo-terminal until its last writer closes it."""
    output = b""
    with suppress(OSError):  # Linux raises it when the last writer has closed the terminal
        while chunk := os.read(terminal, 1 << 16):
            output += chunk
    return output.decode()


def test_unreadable_files_are_listed_and_their_cells_missing(
    finished_site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    part = next(finished_site.folder.table("cells").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    with finished_site.folder.plan.open("a") as plan:
        plan.write('{"cell_id": "torn')
    code, state = read_json(finished_site, capsys)
    assert code == 0
    assert (state["state"], state["counts"]["missing"]) == ("stopped", 3)
    warnings = "\n".join(state["warnings"])
    assert str(part) in warnings
    assert f"{finished_site.folder.plan}: skipped 1 damaged line" in warnings


def test_files_with_future_times_have_age_0(
    finished_site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with acquire_sweep_lock(finished_site.folder):
        journal = Journal(finished_site.folder.journals / "p.journal", {"device": "cpu"})
        journal.start("another", 1)
        later = datetime.now().timestamp() + 86400  # as if the clock had been set back a day
        for path in [finished_site.folder.provenance, finished_site.folder.launcher, journal.path]:
            os.utime(path, (later, later))
        state = read_json(finished_site, capsys)[1]
        assert (state["state"], state["counts"]["running"]) == ("running", 1)
        assert state["elapsed_seconds"] == 0
        assert state["launcher"]["heartbeat_age_seconds"] == 0
        assert [worker["heartbeat_age_seconds"] for worker in state["workers"]] == [0]


def test_a_launcher_on_another_host_runs_while_it_sends_heartbeats(
    finished_site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    lock_file = finished_site.folder.launcher
    lock_file.write_text(json.dumps({"host": "elsewhere", "pid": 7, "started": None}))
    state = read_json(finished_site, capsys)[1]
    assert (state["state"], state["launcher"]["alive"]) == ("running", None)
    os.utime(lock_file, (0, 0))
    assert read_json(finished_site, capsys)[1]["state"] == "finished"


def test_without_a_name_all_sweeps_are_listed(
    finished_site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none").mkdir()
    assert run_status(f"--results={tmp_path}/none") == 0
    assert "no sweeps in" in capsys.readouterr().out
    assert run_status(f"--results={tmp_path}") == 0
    header, line = capsys.readouterr().out.splitlines()
    columns = ["sweep", "cells", "done", "failed", "unfinished", "state", "last", "change"]
    assert header.split() == columns
    assert line.split()[:6] == ["s", str(CELLS), str(CELLS), "0", "0", "finished"]


def test_unknown_sweep_suggests_the_nearest_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "he2015").mkdir()
    (tmp_path / "he2015" / "cells.jsonl").touch()
    assert run_status("he2016", f"--results={tmp_path}") == 2
    assert "no such sweep; did you mean he2015?" in capsys.readouterr().err
