"""`experiments.cancel` stops a sweep, which keeps its finished cells."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
from pathlib import Path

import pytest
from fault_rows import run_inline
from sweep_process import Site, make_site, wait_for_output, wait_until

from experiments import cancel
from experiments.console import INTERRUPTED
from experiments.sweep.status.reader import StatusReader
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.paths import SweepFolder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("TROUBLED", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return make_site(tmp_path)


def run_cancel(*arguments: str) -> int:
    try:
        cancel.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_cancelled_sweep_resumes_with_the_same_command(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.write_file("hold-2")
    grid = ("init.number=range(4)", "runner.workers=1")
    sweep = site.start(*grid)
    wait_until(lambda: site.held_workers(), sweep)
    assert run_cancel("s", f"--results={tmp_path}") == 0
    output = capsys.readouterr().out
    assert f"s: sent SIGTERM to process {sweep.pid}; waiting" in output
    assert "The launcher has stopped." in output
    assert f"2 finished cells saved in {site.folder.root}/" in output
    assert "2 cells not finished. Run the sweep's command again" in output
    launcher_output = wait_for_output(sweep).replace("\n", " ")
    assert "Interrupted: 2 of 4 cells are done" in launcher_output
    assert sweep.returncode == INTERRUPTED
    # The launcher and `fanin status` count the same cancelled cells.
    assert StatusReader(site.folder).read().outcomes == {"ok": 2, "cancelled": 1}
    assert "2 of 4 cells (2 ok, 1 cancelled)" in launcher_output

    assert run_cancel("s", f"--results={tmp_path}") == 0
    assert "s: not running." in capsys.readouterr().out
    site.remove_files("hold-*")
    assert run_inline(site, *grid) == 0
    assert [site.runs(number) for number in range(4)] == [1, 1, 2, 1]


def test_cancel_names_the_command_for_another_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SweepFolder(tmp_path / "s")
    folder.root.mkdir()
    folder.plan.touch()
    write_format(folder)
    folder.launcher.write_text(json.dumps({"host": "elsewhere", "pid": 7, "started": 1.0}))
    assert run_cancel("s", f"--results={tmp_path}") == 2
    assert "ssh elsewhere kill -TERM 7" in capsys.readouterr().err
    assert folder.launcher.exists()


def test_cancel_spares_a_reused_process_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SweepFolder(tmp_path / "s")
    folder.root.mkdir()
    folder.plan.touch()
    write_format(folder)
    with subprocess.Popen(["sleep", "1000"]) as other_process:
        record = {"host": platform.node(), "pid": other_process.pid, "started": 1.0}
        folder.launcher.write_text(json.dumps(record))
        assert run_cancel("s", f"--results={tmp_path}") == 0
        assert "s: not running." in capsys.readouterr().out
        assert other_process.poll() is None
        other_process.kill()


def test_unknown_sweep_suggests_the_nearest_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "he2015").mkdir()
    (tmp_path / "he2015" / "cells.jsonl").touch()
    assert run_cancel("he2016", f"--results={tmp_path}") == 2
    assert "did you mean he2015?" in capsys.readouterr().err


def test_a_suspended_sweep_is_cancelled(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.write_file("hold-0")
    sweep = site.start("init.number=range(2)", "runner.workers=1")
    wait_until(lambda: site.held_workers(), sweep)
    sweep.send_signal(signal.SIGSTOP)
    assert run_cancel("s", f"--results={tmp_path}") == 0
    assert "The launcher has stopped." in capsys.readouterr().out
    wait_for_output(sweep)
    assert sweep.returncode == INTERRUPTED
