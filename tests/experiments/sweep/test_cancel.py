"""A sweep that is cancelled from elsewhere keeps what it has finished."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import pytest
from fault_rows import run_here
from sweep_process import finish, site, until

from experiments import cancel
from experiments.console import INTERRUPTED
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.paths import SweepFolder


def told(*words: str) -> int:
    try:
        cancel.main(words)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_cancelled_sweep_keeps_what_is_finished_and_goes_on_with_the_same_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLED", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    here = site(tmp_path)
    here.tell("hold-2")
    grid = ("init.number=range(4)", "runner.workers=1")
    sweep = here.start(*grid)
    until(lambda: here.held(), sweep)
    assert told("s", f"--results={tmp_path}") == 0
    said = capsys.readouterr().out
    assert f"s: sent SIGTERM to process {sweep.pid}; waiting" in said
    assert "The launcher has stopped." in said
    assert f"2 finished cells saved in {here.folder.root}/" in said
    assert "2 cells not finished. Run the sweep's command again" in said
    assert "Interrupted: 2 of 4 cells are done" in finish(sweep).replace("\n", " ")
    assert sweep.returncode == INTERRUPTED

    assert told("s", f"--results={tmp_path}") == 0
    assert "s: not running." in capsys.readouterr().out
    here.forget("hold-*")
    assert run_here(here, *grid) == 0
    assert [here.runs(number) for number in range(4)] == [1, 1, 2, 1]


def test_a_sweep_on_another_host_is_stopped_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SweepFolder(tmp_path / "s")
    folder.root.mkdir()
    folder.plan.touch()
    write_format(folder)
    folder.launcher.write_text(json.dumps({"host": "elsewhere", "pid": 7, "started": 1.0}))
    assert told("s", f"--results={tmp_path}") == 2
    assert "ssh elsewhere kill -TERM 7" in capsys.readouterr().err
    assert folder.launcher.exists()


def test_the_process_that_got_a_dead_launchers_number_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SweepFolder(tmp_path / "s")
    folder.root.mkdir()
    folder.plan.touch()
    write_format(folder)
    with subprocess.Popen(["sleep", "1000"]) as other:
        note = {"host": platform.node(), "pid": other.pid, "started": 1.0}
        folder.launcher.write_text(json.dumps(note))
        assert told("s", f"--results={tmp_path}") == 0
        assert "s: not running." in capsys.readouterr().out
        assert other.poll() is None
        other.kill()


def test_an_unknown_sweep_is_told_with_the_nearest_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "he2015").mkdir()
    (tmp_path / "he2015" / "cells.jsonl").touch()
    assert told("he2016", f"--results={tmp_path}") == 2
    assert "did you mean he2015?" in capsys.readouterr().err
