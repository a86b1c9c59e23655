"""One launcher a sweep, and a dead one's note stops nobody."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.sweep.store import lock
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "s")


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


def note(folder: SweepFolder, **about: Any) -> None:
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.launcher.write_text(json.dumps({"host": platform.node()} | about))


def assert_free(folder: SweepFolder) -> None:
    with acquire_sweep_lock(folder):
        assert json.loads(folder.launcher.read_text())["pid"] == os.getpid()
    assert not folder.launcher.exists()


def test_a_living_launcher_is_named(folder: SweepFolder, other: subprocess.Popen[bytes]) -> None:
    note(folder, pid=other.pid)
    with pytest.raises(FaninError, match=f"process {other.pid} is running"):
        assert_free(folder)
    assert json.loads(folder.launcher.read_text())["pid"] == other.pid


def test_a_dead_launchers_note_is_void(folder: SweepFolder, other: subprocess.Popen[bytes]) -> None:
    note(folder, pid=other.pid)
    other.kill()
    other.wait()
    assert_free(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says when a process started")
def test_another_process_that_got_a_dead_launchers_number_is_not_it(
    folder: SweepFolder, other: subprocess.Popen[bytes]
) -> None:
    note(folder, pid=other.pid, started=1.0)
    assert_free(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"host": "x"}', '{"host": 1, "pid": "?"}'])
def test_a_spoilt_note_stops_nobody(folder: SweepFolder, text: str) -> None:
    folder.root.mkdir()
    folder.launcher.write_text(text)
    assert_free(folder)


def test_a_launcher_that_was_taken_over_leaves_the_new_ones_note(folder: SweepFolder) -> None:
    with acquire_sweep_lock(folder):
        folder.launcher.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    assert json.loads(folder.launcher.read_text())["host"] == "elsewhere"


def elsewhere(folder: SweepFolder, age: float) -> None:
    """Another host's note, renewed so many seconds ago by the time that files there get."""
    note(folder, host="elsewhere", pid=7)
    now = folder.launcher.stat().st_mtime
    os.utime(folder.launcher, (now - age, now - age))


def test_a_launcher_on_another_host_is_named_while_it_renews_its_note(folder: SweepFolder) -> None:
    elsewhere(folder, age=30)
    with pytest.raises(FaninError, match=r"process 7 on elsewhere.*60 s after its end"):
        assert_free(folder)


@pytest.mark.parametrize(
    "age", [3600, -3600]
)  # long silent; or written before a clock was put back
def test_another_hosts_note_that_is_not_renewed_is_void(folder: SweepFolder, age: float) -> None:
    elsewhere(folder, age)
    assert_free(folder)


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_this_hosts_clock_has_no_say(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    elsewhere(folder, age=3600)
    assert_free(folder)
    elsewhere(folder, age=30)
    with pytest.raises(FaninError, match="elsewhere"):
        assert_free(folder)


def test_a_beat_renews_the_note(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_EVERY", 0.0)
    with acquire_sweep_lock(folder) as hold:
        os.utime(folder.launcher, (0, 0))
        hold.heartbeat()
        assert lock._is_fresh(folder.launcher)


def test_a_launcher_that_was_taken_over_learns_it_by_its_next_beat(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_EVERY", 0.0)
    with acquire_sweep_lock(folder) as hold:
        elsewhere(folder, age=0)
        with pytest.raises(FaninError, match="process 7 on elsewhere has taken this sweep over"):
            hold.heartbeat()
    assert folder.launcher.exists()


def _try(folder: SweepFolder, ready: Any, over: Any, wins: Any) -> None:
    ready.wait()
    try:
        with acquire_sweep_lock(folder):
            with wins.get_lock():
                wins.value += 1
            over.wait()
    except FaninError:
        over.wait()


def test_of_launchers_that_start_at_once_one_wins(folder: SweepFolder) -> None:
    context = multiprocessing.get_context("fork")
    ready, over, wins = context.Barrier(8), context.Barrier(8), context.Value("i", 0)
    tries = [context.Process(target=_try, args=(folder, ready, over, wins)) for _ in range(8)]
    for process in tries:
        process.start()
    for process in tries:
        process.join(60)
    assert [process.exitcode for process in tries] == [0] * 8
    assert wins.value == 1
