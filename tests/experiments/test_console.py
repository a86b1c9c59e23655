"""The console: a pipe that is closed, and Ctrl-C at a question."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from analysis import load
from experiments.console import ask

TINY = "model=linear data.n_train=64 data.n_test=32 probe=none train.steps=3 runner=inline"


def test_a_sweep_continues_after_a_broken_pipe(tmp_path: Path) -> None:
    """Close the pipe while the sweep has lines to print, like `... | head -1`."""
    overrides = [*TINY.split(), "seed=range(3)", "sweep.name=s", f"sweep.results={tmp_path}"]
    command = [sys.executable, "-m", "experiments.run", "-m", *overrides]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sweep:
        assert sweep.stdout is not None
        assert b"3 missing" in sweep.stdout.readline()
        sweep.stdout.close()
        _, errors = sweep.communicate()
    assert (sweep.returncode, errors) == (0, b"")
    assert list(load("s", tmp_path).cells["outcome"]) == ["ok"] * 3


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make a pipe the standard input; return its other end."""
    read_end, write_end = os.pipe()
    monkeypatch.setattr("sys.stdin", os.fdopen(read_end))
    return write_end


def test_a_question_returns_the_typed_line(stdin: int, capsys: pytest.CaptureFixture[str]) -> None:
    os.write(stdin, b"yes\n")
    assert ask(Console(), "Cancel? [y/n] ") == "yes\n"
    assert capsys.readouterr().out == "Cancel? [y/n] "
    os.close(stdin)
    assert ask(Console(), "Cancel? ") == ""


def test_a_signal_in_another_thread_ends_a_question(stdin: int) -> None:
    """`input()` keeps waiting then, and after a signal that arrives just before it waits."""
    interrupted, typed = threading.Event(), threading.Event()

    def press_ctrl_c() -> None:
        time.sleep(0.3)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not interrupted.wait(5):
            typed.set()
            os.write(stdin, b"n\n")  # ends a wait that missed the signal

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=press_ctrl_c)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            ask(Console(), "Cancel? ")
        interrupted.set()
        assert not typed.is_set()
    finally:
        signal.signal(signal.SIGINT, handler)
        thread.join()
