"""One launcher a sweep, and a dead one's note stops nobody."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import FaninError
from experiments.sweep.store.lock import sole_launcher
from experiments.sweep.store.paths import SweepFolder


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "s")


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


def note(folder: SweepFolder, **about: Any) -> None:
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.launcher.write_text(json.dumps({"host": platform.node(), **about}))


def assert_free(folder: SweepFolder) -> None:
    with sole_launcher(folder):
        assert json.loads(folder.launcher.read_text())["pid"] == os.getpid()
    assert not folder.launcher.exists()


def test_a_living_launcher_is_named(folder: SweepFolder, other: subprocess.Popen[bytes]) -> None:
    note(folder, pid=other.pid)
    with pytest.raises(FaninError, match=f"process {other.pid} is running"), sole_launcher(folder):
        raise AssertionError
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
    note(folder, pid=other.pid, born="1")
    assert_free(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"host": "x"}', '{"host": 1, "pid": "?"}'])
def test_a_spoilt_note_stops_nobody(folder: SweepFolder, text: str) -> None:
    folder.root.mkdir()
    folder.launcher.write_text(text)
    assert_free(folder)


def test_a_launcher_that_was_taken_over_leaves_the_new_ones_note(folder: SweepFolder) -> None:
    with sole_launcher(folder):
        folder.launcher.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    assert json.loads(folder.launcher.read_text())["host"] == "elsewhere"


def _try(folder: SweepFolder, ready: Any, over: Any, wins: Any) -> None:
    ready.wait()
    try:
        with sole_launcher(folder):
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
