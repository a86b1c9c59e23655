"""Processes of a sweep killed during a training step."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from fault_rows import Record, describe_end, fault, rerun, run_inline
from sweep_process import Site, has_ended, is_alive, wait_for_output, wait_until

from analysis import load

CELLS = 12
SERIAL = (f"init.number=range({CELLS})", "runner.pack_cells=6", "runner.workers=2")
STACKED = (*SERIAL, "engine=stacked")
HELD = (2, 8)  # one in each pack


def start_and_hold(
    site: Site, *arguments: str, held: tuple[int, ...] = HELD
) -> subprocess.Popen[str]:
    """Start a sweep, and wait until each worker is in the third training step of a cell."""
    for number in held:
        site.write_file(f"step-{number}", "hold")
    sweep = site.start(*arguments)
    wait_until(lambda: all((site.root / f"at-{number}").exists() for number in held), sweep)
    return sweep


def worker(site: Site, number: int) -> int:
    """Return the process that runs the cell of that number."""
    return int((site.root / f"at-{number}").read_text())


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_killed_worker_costs_one_cell(
    faulty: Site, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = start_and_hold(faulty, *SERIAL)
    # Meanwhile a second launcher is refused, and the plan is correct.
    assert run_inline(faulty, *SERIAL) == 2
    assert f"process {sweep.pid} is running this sweep" in capsys.readouterr().err
    assert run_inline(faulty, *SERIAL, "sweep.mode=plan") == 0
    assert "4 done, 8 missing" in capsys.readouterr().out
    os.kill(worker(faulty, 2), signal.SIGKILL)
    faulty.remove_files("step-*")
    output = wait_for_output(sweep)
    assert "Traceback" not in output
    assert "exit code -9, SIGKILL" in output
    first_run = describe_end(faulty, sweep.returncode)
    assert first_run == "exit 1; 1 killed, 11 ok"
    second_run = rerun(faulty, *SERIAL, cells=CELLS)
    attempts = load("s", faulty.root).cells.set_index("init.number")["attempt"]
    assert dict(attempts) == {number: 2 if number == 2 else 1 for number in range(CELLS)}
    record(fault("SIGKILL of a worker in the middle of a training step"), first_run, second_run)


@pytest.mark.slow
def test_killed_worker_of_a_stack_costs_no_cell(faulty: Site, record: Record) -> None:
    sweep = start_and_hold(faulty, *STACKED)
    os.kill(worker(faulty, 2), signal.SIGKILL)
    faulty.remove_files("step-*")
    output = wait_for_output(sweep)
    # Any cell of the stack may be the cause: each has run again alone.
    first_run = describe_end(faulty, sweep.returncode)
    assert first_run == "exit 0; 12 ok", output
    second_run = rerun(faulty, *STACKED, cells=CELLS)
    record(
        fault("SIGKILL of a worker that trains cells with `engine=stacked`"), first_run, second_run
    )


@pytest.mark.parametrize("arguments", [SERIAL, pytest.param(STACKED, marks=pytest.mark.slow)])
def test_workers_end_with_a_killed_launcher(
    faulty: Site, record: Record, arguments: tuple[str, ...]
) -> None:
    sweep = start_and_hold(faulty, *arguments)
    workers = [worker(faulty, number) for number in HELD]
    processes = {*workers, *map(parent, workers)}
    sweep.kill()
    wait_for_output(sweep)  # waits until no process holds its output open
    wait_until(lambda: all(has_ended(pid) for pid in processes))
    first_run = describe_end(faulty, sweep.returncode)
    faulty.remove_files("step-*")
    second_run = rerun(faulty, *arguments, cells=CELLS)
    if arguments == SERIAL:
        first_run = f"its workers are killed too; {first_run}"
        record(fault("SIGKILL of the launcher"), first_run, second_run)


@pytest.mark.slow
def test_worker_and_launcher_killed_together_cost_running_cells(
    faulty: Site, record: Record
) -> None:
    sweep = start_and_hold(faulty, *SERIAL)
    os.kill(worker(faulty, 2), signal.SIGKILL)
    sweep.kill()
    wait_for_output(sweep)
    first_run = describe_end(faulty, sweep.returncode)
    faulty.remove_files("step-*")
    second_run = rerun(faulty, *SERIAL, cells=CELLS)
    record(fault("SIGKILL of a worker and of the launcher together"), first_run, second_run)


@pytest.mark.slow
def test_sweep_survives_the_death_of_its_fork_server(faulty: Site, record: Record) -> None:
    sweep = start_and_hold(faulty, *SERIAL)
    server = parent(worker(faulty, 2))
    assert server != sweep.pid
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not is_alive(worker(faulty, 2)) and not is_alive(worker(faulty, 8)), sweep)
    faulty.remove_files("step-*")
    output = wait_for_output(sweep)
    assert "Traceback" not in output
    first_run = describe_end(faulty, sweep.returncode)
    assert first_run == "exit 1; 2 killed, 10 ok", output
    second_run = rerun(faulty, *SERIAL, cells=CELLS)
    record(fault("SIGKILL of the process that workers are forked from"), first_run, second_run)
