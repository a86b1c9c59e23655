"""At most one launcher per sweep; the lock file of a dead launcher is void."""

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


def write_lock_file(folder: SweepFolder, **content: Any) -> None:
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.launcher.write_text(json.dumps({"host": platform.node()} | content))


def assert_free(folder: SweepFolder) -> None:
    with acquire_sweep_lock(folder):
        assert json.loads(folder.launcher.read_text())["pid"] == os.getpid()
    assert not folder.launcher.exists()


def test_error_names_the_running_launcher(
    folder: SweepFolder, other: subprocess.Popen[bytes]
) -> None:
    write_lock_file(folder, pid=other.pid)
    with pytest.raises(FaninError, match=f"process {other.pid} is running"):
        assert_free(folder)
    assert json.loads(folder.launcher.read_text())["pid"] == other.pid


def test_lock_file_of_a_dead_launcher_is_void(
    folder: SweepFolder, other: subprocess.Popen[bytes]
) -> None:
    write_lock_file(folder, pid=other.pid)
    other.kill()
    other.wait()
    assert_free(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="start times of processes need Linux")
def test_reused_process_number_does_not_hold_the_lock(
    folder: SweepFolder, other: subprocess.Popen[bytes]
) -> None:
    write_lock_file(folder, pid=other.pid, started=1.0)
    assert_free(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"host": "x"}', '{"host": 1, "pid": "?"}'])
def test_damaged_lock_file_is_void(folder: SweepFolder, text: str) -> None:
    folder.root.mkdir()
    folder.launcher.write_text(text)
    assert_free(folder)


def test_release_keeps_the_lock_file_of_a_new_launcher(folder: SweepFolder) -> None:
    with acquire_sweep_lock(folder):
        folder.launcher.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    assert json.loads(folder.launcher.read_text())["host"] == "elsewhere"


def lock_from_another_host(folder: SweepFolder, age: float) -> None:
    """Write a lock file of another host, renewed `age` seconds ago by the file system's clock."""
    write_lock_file(folder, host="elsewhere", pid=7)
    now = folder.launcher.stat().st_mtime
    os.utime(folder.launcher, (now - age, now - age))


def test_error_names_a_launcher_on_another_host(folder: SweepFolder) -> None:
    lock_from_another_host(folder, age=30)
    with pytest.raises(FaninError, match=r"process 7 on elsewhere.*60 s after it ended"):
        assert_free(folder)


# Not renewed for long, or written before the clock was set back.
@pytest.mark.parametrize("age", [3600, -3600])
def test_stale_lock_file_of_another_host_is_void(folder: SweepFolder, age: float) -> None:
    lock_from_another_host(folder, age)
    assert_free(folder)


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_clock_of_this_host_does_not_matter(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    lock_from_another_host(folder, age=3600)
    assert_free(folder)
    lock_from_another_host(folder, age=30)
    with pytest.raises(FaninError, match="elsewhere"):
        assert_free(folder)


def test_heartbeat_renews_the_lock_file(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEW_INTERVAL", 0.0)
    with acquire_sweep_lock(folder) as sweep_lock:
        os.utime(folder.launcher, (0, 0))
        sweep_lock.heartbeat()
        assert lock._is_recent(folder.launcher)


def test_heartbeat_raises_after_a_takeover(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEW_INTERVAL", 0.0)
    with acquire_sweep_lock(folder) as sweep_lock:
        lock_from_another_host(folder, age=0)
        with pytest.raises(FaninError, match="process 7 on elsewhere has taken over this sweep"):
            sweep_lock.heartbeat()
    assert folder.launcher.exists()


def _try_lock(folder: SweepFolder, start: Any, end: Any, wins: Any) -> None:
    start.wait()
    try:
        with acquire_sweep_lock(folder):
            with wins.get_lock():
                wins.value += 1
            end.wait()
    except FaninError:
        end.wait()


def test_only_one_of_many_simultaneous_launchers_wins(folder: SweepFolder) -> None:
    context = multiprocessing.get_context("fork")
    start, end, wins = context.Barrier(8), context.Barrier(8), context.Value("i", 0)
    processes = [
        context.Process(target=_try_lock, args=(folder, start, end, wins)) for _ in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert wins.value == 1
