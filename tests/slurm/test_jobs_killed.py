"""Workers and jobs that die before their cells are finished."""

from __future__ import annotations

import shlex
import sys

import pytest
from concurrent_tests import run_concurrently
from faulty_sweep import FaultySweep, assert_same_tables, reference_results

pytestmark = pytest.mark.slurm

# Python wrapper that calls os._exit(0) once, as soon as the file {exit_file} exists.
EXITING_PYTHON = """\
#!{python}
import os, runpy, sys, threading, time
def exit_when_file_exists():
    while True:
        time.sleep(0.05)
        try:
            os.unlink({exit_file!r})
        except FileNotFoundError:
            continue
        os._exit(0)
if __name__ == "__main__":
    threading.Thread(target=exit_when_file_exists, daemon=True).start()
    sys.argv = sys.argv[3:]  # without -u -m
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@run_concurrently
def test_a_dying_worker_loses_only_its_running_cell(sweep: FaultySweep) -> None:
    for number, kind in enumerate(["segfault", "exit 0", "exit 3", "kill worker"]):
        sweep.set_fault(kind, number)
    status, output = sweep.run("init.number=range(8)", "runner.pack_cells=4")
    assert status == 1
    assert sweep.attempts() == {n: ["killed"] if n < 4 else ["ok"] for n in range(8)}
    reasons = [str(sweep.history()[number][0].reason) for number in range(4)]
    causes = ("SIGSEGV", "os._exit(0)", "exit code 3", "SIGKILL")
    for reason, cause in zip(reasons, causes, strict=True):
        assert cause in reason
        assert cause in output
    assert set(sweep.count_starts().values()) == {1}
    assert_same_tables(sweep.root, reference_results(sweep), [4, 5, 6, 7])
    assert not sweep.leftovers()


@run_concurrently
def test_cells_of_a_killed_job_run_again_up_to_the_limit(sweep: FaultySweep) -> None:
    sweep.set_fault("kill array task", 0, when="once")
    sweep.set_fault("kill array task", 2)
    status, output = sweep.run("init.number=range(4)", "runner.attempts=2")
    assert status == 1
    rows = sweep.attempts()
    assert rows == {0: ["killed", "ok"], 1: ["ok"], 2: ["killed", "killed"], 3: ["ok"]}
    assert "SIGKILL" in str(sweep.history()[0][0].reason)
    assert "signal SIGKILL" in output
    assert_same_tables(sweep.root, reference_results(sweep), [0, 1, 3])
    assert not sweep.leftovers()


@run_concurrently
def test_a_job_that_exits_with_0_too_early_is_reclaimed(sweep: FaultySweep) -> None:
    program, exit_file = sweep.root / "python", sweep.root / "exit"
    program.write_text(EXITING_PYTHON.format(python=sys.executable, exit_file=str(exit_file)))
    program.chmod(0o755)
    sweep.set_fault("hang", 1)
    python = f"runner.slurm.python={shlex.quote(str(program))}"
    process = sweep.start("init.number=range(3)", "runner.pack_cells=3", python)
    sweep.wait_until(lambda: sweep.count("steps", 1) == 1)
    exit_file.touch()
    sweep.wait_until(lambda: sweep.count("steps", 1) == 2)
    sweep.clear_fault(1)
    output = sweep.finish(process)
    assert process.returncode == 0, output
    assert sweep.attempts() == {0: ["ok"], 1: ["killed", "ok"], 2: ["ok"]}
    assert "exited with code 0 before its cells had finished" in str(sweep.history()[1][0].reason)
    assert [sweep.count("draws", number) for number in range(3)] == [1, 2, 1]
    assert_same_tables(sweep.root, reference_results(sweep), [0, 1, 2])
    assert not sweep.leftovers()


@run_concurrently
def test_cells_of_a_job_out_of_memory_run_again_alone(sweep: FaultySweep) -> None:
    sweep.set_fault("hang", 0, 1)
    one_job = ("runner.pack_cells=1", "runner.target_minutes=60", "runner.slurm.cpus=2")
    process = sweep.start("init.number=range(2)", *one_job, "runner.slurm.mem_gb=3.5")
    sweep.wait_until(lambda: sweep.count("steps", 0) == 1 and sweep.count("steps", 1) == 1)
    assert len(sweep.active_job_ids()) == 1
    sweep.set_fault("allocate", 1)
    sweep.wait_until(lambda: sweep.attempts()[1] == ["killed", "oom"])
    sweep.clear_fault(0)  # the second out-of-memory error did not hit it
    output = sweep.finish(process)
    assert process.returncode == 1, output
    assert sweep.attempts() == {0: ["killed", "ok"], 1: ["killed", "oom"]}
    assert "exceeded its requested memory" in output
    assert_same_tables(sweep.root, reference_results(sweep), [0])
    assert not sweep.leftovers()


@run_concurrently
def test_jobs_that_fail_at_startup_are_tried_three_times(sweep: FaultySweep) -> None:
    failing_setup = "runner.slurm.setup=['echo no such module >&2; exit 3']"
    status, output = sweep.run("init.number=range(6)", failing_setup)
    assert status == 2
    assert "3 jobs in a row failed before starting a cell" in " ".join(output.split())
    assert "last line of stderr: no such module" in " ".join(output.split())
    assert sweep.history() == {number: [] for number in range(6)}
    assert not sweep.leftovers()
