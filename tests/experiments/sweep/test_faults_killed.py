"""Processes of a sweep that are killed in the middle of a training step."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from fault_rows import Record, again_here, ended, fault, run_here
from sweep_process import Site, finish, gone, is_alive, until

from analysis import load

CELLS = 12
SERIAL = (f"init.number=range({CELLS})", "runner.pack_cells=6", "runner.workers=2")
STACKED = (*SERIAL, "engine=stacked")
HELD = (2, 8)  # one in each pack


def caught(here: Site, *words: str, held: tuple[int, ...] = HELD) -> subprocess.Popen[str]:
    """A sweep of which each worker is in the third training step of a cell."""
    for number in held:
        here.tell(f"step-{number}", "hold")
    sweep = here.start(*words)
    until(lambda: all((here.root / f"at-{number}").exists() for number in held), sweep)
    return sweep


def worker(here: Site, number: int) -> int:
    """The process that is at the cell of that number."""
    return int((here.root / f"at-{number}").read_text())


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_worker_killed_in_a_step_costs_that_cell(
    faulty: Site, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = caught(faulty, *SERIAL)
    # Meanwhile nobody else may run this sweep, and what is asked about it is right.
    assert run_here(faulty, *SERIAL) == 2
    assert f"process {sweep.pid} is running this sweep" in capsys.readouterr().err
    assert run_here(faulty, *SERIAL, "sweep.mode=plan") == 0
    assert "4 done, 8 missing" in capsys.readouterr().out
    os.kill(worker(faulty, 2), signal.SIGKILL)
    faulty.forget("step-*")
    said = finish(sweep)
    assert "Traceback" not in said
    assert "exit code -9, SIGKILL" in said
    happened = ended(faulty, sweep.returncode)
    assert happened == "exit 1; 1 killed, 11 ok"
    next_ = again_here(faulty, *SERIAL, cells=CELLS)
    attempts = load("s", faulty.root).cells.set_index("init.number")["attempt"]
    assert dict(attempts) == {number: 2 if number == 2 else 1 for number in range(CELLS)}
    record(fault("SIGKILL of a worker in the middle of a training step"), happened, next_)


@pytest.mark.slow
def test_a_worker_killed_in_a_step_of_a_stack_costs_nothing_but_time(
    faulty: Site, record: Record
) -> None:
    sweep = caught(faulty, *STACKED)
    os.kill(worker(faulty, 2), signal.SIGKILL)
    faulty.forget("step-*")
    said = finish(sweep)
    # Which of the stack it was nobody knows: each has run again, alone.
    happened = ended(faulty, sweep.returncode)
    assert happened == "exit 0; 12 ok", said
    next_ = again_here(faulty, *STACKED, cells=CELLS)
    record(fault("the same, of a worker that trains a stack of cells"), happened, next_)


@pytest.mark.parametrize("words", [SERIAL, pytest.param(STACKED, marks=pytest.mark.slow)])
def test_a_killed_launcher_takes_all_its_processes_along(
    faulty: Site, record: Record, words: tuple[str, ...]
) -> None:
    sweep = caught(faulty, *words)
    workers = [worker(faulty, number) for number in HELD]
    processes = {*workers, *map(parent, workers)}
    sweep.kill()
    finish(sweep)  # returns when nothing holds its output open: no process is left behind
    until(lambda: all(gone(pid) for pid in processes))
    happened = ended(faulty, sweep.returncode)
    faulty.forget("step-*")
    next_ = again_here(faulty, *words, cells=CELLS)
    if words == SERIAL:
        happened = f"its workers die with it; {happened}"
        record(fault("SIGKILL of the launcher"), happened, next_)


@pytest.mark.slow
def test_worker_and_launcher_killed_together_cost_what_was_at_work(
    faulty: Site, record: Record
) -> None:
    sweep = caught(faulty, *SERIAL)
    os.kill(worker(faulty, 2), signal.SIGKILL)
    sweep.kill()
    finish(sweep)
    happened = ended(faulty, sweep.returncode)
    faulty.forget("step-*")
    next_ = again_here(faulty, *SERIAL, cells=CELLS)
    record(fault("SIGKILL of a worker and of the launcher together"), happened, next_)


@pytest.mark.slow
def test_without_its_forkserver_a_sweep_goes_on(faulty: Site, record: Record) -> None:
    sweep = caught(faulty, *SERIAL)
    server = parent(worker(faulty, 2))
    assert server != sweep.pid
    os.kill(server, signal.SIGKILL)
    until(lambda: not is_alive(worker(faulty, 2)) and not is_alive(worker(faulty, 8)), sweep)
    faulty.forget("step-*")
    said = finish(sweep)
    assert "Traceback" not in said
    happened = ended(faulty, sweep.returncode)
    assert happened == "exit 1; 2 killed, 10 ok", said
    next_ = again_here(faulty, *SERIAL, cells=CELLS)
    record(fault("SIGKILL of the process that workers are forked from"), happened, next_)
