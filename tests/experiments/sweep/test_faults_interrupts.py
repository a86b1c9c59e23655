"""Ctrl-C, SIGTERM, SIGHUP, at every moment: a few lines, status 130, what was finished is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fault_rows import Record, again_here, assert_nothing_is_left, ended, fault
from sweep_process import Site, finish, until

from experiments.sweep.interrupts import TERMINAL_SIGNALS

CELLS = 12
GRID = (f"init.number=range({CELLS})", "runner.workers=2", "runner.pack_cells=6")
RUNNING = {
    signal.SIGINT: fault("Ctrl-C, twice, while cells run"),
    signal.SIGTERM: fault("SIGTERM, twice, while cells run"),
    signal.SIGHUP: fault("the terminal goes away (SIGHUP) while cells run"),
}
STARTING = {
    signal.SIGINT: fault("Ctrl-C, twice, while workers start"),
    signal.SIGTERM: fault("SIGTERM, twice, while workers start"),
}
TIMING = {
    signal.SIGINT: fault("Ctrl-C, twice, while `engine=auto` times"),
    signal.SIGTERM: fault("SIGTERM, twice, while `engine=auto` times"),
}
LINES = 6  # most that an interrupted sweep has to say


def interrupt(sweep: subprocess.Popen[str], kind: signal.Signals) -> str:
    """Twice, as the impatient do; what comes from a terminal goes to all of its processes."""
    for _ in range(2):
        if kind in TERMINAL_SIGNALS:
            os.killpg(sweep.pid, kind)
        elif sweep.poll() is None:
            sweep.send_signal(kind)
    said = finish(sweep)
    assert sweep.returncode == 130, said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= LINES, said
    return said.replace("\n", " ")


@pytest.mark.parametrize(
    "kind",
    [
        signal.SIGINT,
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in (signal.SIGTERM, signal.SIGHUP)),
    ],
)
def test_an_interrupted_sweep_says_so_and_keeps_what_is_done(
    faulty: Site, record: Record, kind: signal.Signals
) -> None:
    faulty.tell("step-2", "hold")
    faulty.tell("step-8", "hang")  # and ignores SIGTERM
    sweep = faulty.start(*GRID)
    until(lambda: all((faulty.root / f"at-{n}").exists() for n in (2, 8)), sweep)
    assert "Interrupted: 4 of 12 cells are done" in interrupt(sweep, kind)
    happened = ended(faulty, sweep.returncode)
    assert happened == "exit 130; 2 cancelled, 4 ok"
    assert_nothing_is_left(faulty)
    faulty.forget("step-*")
    next_ = again_here(faulty, *GRID, cells=CELLS)
    record(RUNNING[kind], happened, next_)


def imports_torch(pid: str) -> bool:
    """Whether a process is somewhere in the seconds that the server of workers takes to load."""
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    "kind", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupt_while_workers_start_is_as_quiet(
    faulty: Site, record: Record, kind: signal.Signals
) -> None:
    sweep = faulty.start(*GRID)
    children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children")
    until(lambda: any(imports_torch(pid) for pid in children.read_text().split()), sweep)
    interrupt(sweep, kind)
    happened = ended(faulty, sweep.returncode)
    next_ = again_here(faulty, *GRID, cells=CELLS)
    record(STARTING[kind], happened, next_)


@pytest.mark.parametrize(
    "kind", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_an_interrupt_while_engines_are_timed_is_as_quiet(
    faulty: Site, record: Record, kind: signal.Signals
) -> None:
    faulty.tell("hold-0")
    words = ("init.number=range(4)", "runner.workers=2", "engine=auto")
    sweep = faulty.start(*words)
    until(lambda: faulty.runs(0), sweep)
    assert "Interrupted before anything ran." in interrupt(sweep, kind)
    happened = ended(faulty, sweep.returncode)
    assert happened == "exit 130; nothing ran"
    assert_nothing_is_left(faulty)
    faulty.forget("hold-0")
    next_ = again_here(faulty, *words, cells=4)
    record(TIMING[kind], happened, next_)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("interrupt", "error"),
        ("kill", "killed"),
    ],
)
def test_a_cell_that_fails_while_engines_are_timed_fails_as_a_cell(
    faulty: Site, kind: str, outcome: str
) -> None:
    faulty.tell("step-0", kind)
    sweep = faulty.start("init.number=range(2)", "runner.workers=1", "engine=auto")
    said = finish(sweep)
    assert "timing it failed" in said
    assert "Traceback" not in said
    assert ended(faulty, sweep.returncode) == f"exit 1; 1 {outcome}, 1 ok"
