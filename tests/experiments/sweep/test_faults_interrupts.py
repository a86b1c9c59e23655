"""Ctrl-C, SIGTERM and SIGHUP at any time: short output, exit status 130, finished cells kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fault_rows import Record, assert_no_leftovers, describe_end, fault, rerun
from sweep_process import Site, wait_for_output, wait_until

from experiments.sweep.interrupts import TERMINAL_SIGNALS

CELLS = 12
GRID = (f"init.number=range({CELLS})", "runner.workers=2", "runner.pack_cells=6")
RUNNING = {
    signal.SIGINT: fault("Ctrl-C, twice, while cells run"),
    signal.SIGTERM: fault("SIGTERM, twice, while cells run"),
    signal.SIGHUP: fault("the terminal closes (SIGHUP) while cells run"),
}
STARTING = {
    signal.SIGINT: fault("Ctrl-C, twice, while workers start"),
    signal.SIGTERM: fault("SIGTERM, twice, while workers start"),
}
TIMING = {
    signal.SIGINT: fault("Ctrl-C, twice, while `engine=auto` measures the engines"),
    signal.SIGTERM: fault("SIGTERM, twice, while `engine=auto` measures the engines"),
}
MAX_LINES = 6  # of an interrupted sweep


def interrupt(sweep: subprocess.Popen[str], kind: signal.Signals) -> str:
    """Send the signal twice; those of a terminal go to the whole process group."""
    for _ in range(2):
        if kind in TERMINAL_SIGNALS:
            os.killpg(sweep.pid, kind)
        elif sweep.poll() is None:
            sweep.send_signal(kind)
    output = wait_for_output(sweep)
    assert sweep.returncode == 130, output
    assert "Traceback" not in output
    assert len(output.splitlines()) <= MAX_LINES, output
    return output.replace("\n", " ")


@pytest.mark.parametrize(
    "kind",
    [
        signal.SIGINT,
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in (signal.SIGTERM, signal.SIGHUP)),
    ],
)
def test_interrupted_sweep_keeps_finished_cells(
    faulty: Site, record: Record, kind: signal.Signals
) -> None:
    faulty.write_file("step-2", "hold")
    faulty.write_file("step-8", "hang")  # also ignores SIGTERM
    sweep = faulty.start(*GRID)
    wait_until(lambda: all((faulty.root / f"at-{n}").exists() for n in (2, 8)), sweep)
    assert "Interrupted: 4 of 12 cells are done" in interrupt(sweep, kind)
    first_run = describe_end(faulty, sweep.returncode)
    assert first_run == "exit 130; 2 cancelled, 4 ok"
    assert_no_leftovers(faulty)
    faulty.remove_files("step-*")
    second_run = rerun(faulty, *GRID, cells=CELLS)
    record(RUNNING[kind], first_run, second_run)


def imports_torch(pid: str) -> bool:
    """Return True if a process is importing torch, as the fork server does for seconds."""
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    "kind", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupt_while_workers_start(faulty: Site, record: Record, kind: signal.Signals) -> None:
    sweep = faulty.start(*GRID)
    children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children")
    wait_until(lambda: any(imports_torch(pid) for pid in children.read_text().split()), sweep)
    interrupt(sweep, kind)
    first_run = describe_end(faulty, sweep.returncode)
    second_run = rerun(faulty, *GRID, cells=CELLS)
    record(STARTING[kind], first_run, second_run)


@pytest.mark.parametrize(
    "kind", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_interrupt_while_engines_are_timed(
    faulty: Site, record: Record, kind: signal.Signals
) -> None:
    faulty.write_file("hold-0")
    arguments = ("init.number=range(4)", "runner.workers=2", "engine=auto")
    sweep = faulty.start(*arguments)
    wait_until(lambda: faulty.runs(0), sweep)
    assert "Interrupted while no cell was running." in interrupt(sweep, kind)
    first_run = describe_end(faulty, sweep.returncode)
    assert first_run == "exit 130; nothing ran"
    assert_no_leftovers(faulty)
    faulty.remove_files("hold-0")
    second_run = rerun(faulty, *arguments, cells=4)
    record(TIMING[kind], first_run, second_run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("interrupt", "error"),
        ("kill", "killed"),
    ],
)
def test_failure_while_engines_are_timed_fails_the_cell(
    faulty: Site, kind: str, outcome: str
) -> None:
    faulty.write_file("step-0", kind)
    sweep = faulty.start("init.number=range(2)", "runner.workers=1", "engine=auto")
    output = wait_for_output(sweep)
    assert "timing failed" in output
    assert "Traceback" not in output
    assert describe_end(faulty, sweep.returncode) == f"exit 1; 1 {outcome}, 1 ok"
