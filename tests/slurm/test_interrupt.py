"""Ctrl-C in a terminal: the launcher asks whether to leave the jobs running or to cancel them."""

from __future__ import annotations

import pytest
from concurrent_tests import run_concurrently
from faulty_sweep import FaultySweep
from sweep_command import TIMEOUT
from terminal import CTRL_C, ENTER, Terminal

pytestmark = pytest.mark.slurm

CELLS = "init.number=range(4)"  # two packs, one job each
PROMPT = "1 job active on Slurm. [L]eave it running or [c]ancel? "


def running_command(sweep: FaultySweep) -> Terminal:
    """Start the command, and wait until one job has ended and one is at its first cell."""
    sweep.set_fault("hang", 2)
    terminal = sweep.start_in_terminal(CELLS)
    sweep.wait_until(lambda: len(sweep.count_rows()) == 2 and sweep.count("steps", 2))
    sweep.wait_until(
        lambda: len(sweep.active_job_ids()) == len(list(sweep.folder.journals.iterdir())) == 1
    )
    return terminal


def interrupted_command(sweep: FaultySweep) -> Terminal:
    """Press Ctrl-C, and wait for the prompt."""
    terminal = running_command(sweep)
    terminal.type(CTRL_C)
    sweep.wait_until(lambda: PROMPT in terminal.output)
    return terminal


def final_output(terminal: Terminal) -> str:
    """Wait until the interrupted command ends; return its output."""
    assert terminal.end(TIMEOUT) == 130, terminal.output
    output = " ".join(terminal.output.split())
    assert "Traceback" not in output
    assert "Interrupted: 2 of 4 cells are done and saved" in output
    return output


def assert_job_still_runs(sweep: FaultySweep, terminal: Terminal) -> None:
    """Assert that the job keeps running and that the same command waits for it."""
    output = final_output(terminal)
    (job,) = sweep.active_job_ids()
    assert f"active on Slurm (job id {job.partition('_')[0]}). Run the same command again" in output
    process = sweep.start(CELLS)
    sweep.wait_until(sweep.folder.launcher.exists)
    sweep.clear_fault(2)
    output = sweep.finish(process)
    assert process.returncode == 0, output
    assert sweep.attempts() == {number: ["ok"] for number in range(4)}
    assert len(sweep.arrays()) == 1
    assert set(sweep.count_starts().values()) == {1}
    sweep.wait_until(lambda: not sweep.leftovers(), while_alive=False)


@run_concurrently
def test_jobs_left_running_are_found_again(sweep: FaultySweep) -> None:
    terminal = interrupted_command(sweep)
    terminal.type(f"l{ENTER}")
    assert_job_still_runs(sweep, terminal)


@run_concurrently
def test_ctrl_c_at_the_prompt_leaves_the_jobs_running(sweep: FaultySweep) -> None:
    terminal = interrupted_command(sweep)
    terminal.type(CTRL_C)
    assert_job_still_runs(sweep, terminal)


@run_concurrently
def test_cancelling_the_jobs_keeps_finished_cells(sweep: FaultySweep) -> None:
    terminal = interrupted_command(sweep)
    terminal.type(f"c{ENTER}")
    assert "active on Slurm (" not in final_output(terminal)
    assert not sweep.active_tasks()
    assert not list(sweep.folder.journals.iterdir())
    assert sweep.attempts() == {0: ["ok"], 1: ["ok"], 2: ["cancelled"], 3: []}
    sweep.clear_fault(2)
    status, output = sweep.run(CELLS)
    assert status == 0, output
    assert sweep.attempts() == {0: ["ok"], 1: ["ok"], 2: ["cancelled", "ok"], 3: ["ok"]}
    assert len(sweep.arrays()) == 2
    sweep.wait_until(lambda: not sweep.leftovers(), while_alive=False)


@run_concurrently
def test_a_cancelled_launcher_in_a_terminal_asks_nothing(sweep: FaultySweep) -> None:
    terminal = running_command(sweep)
    process = sweep.run_module("cancel")
    assert process.returncode == 0, process.stdout + process.stderr
    assert PROMPT not in final_output(terminal)
    assert not sweep.active_tasks()
    assert sweep.attempts() == {0: ["ok"], 1: ["ok"], 2: ["cancelled"], 3: []}
