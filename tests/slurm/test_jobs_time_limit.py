"""Jobs that reach their time limit."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from concurrent_tests import run_concurrently
from faulty_sweep import FaultySweep, assert_same_tables, reference_results

pytestmark = pytest.mark.slurm


def send_time_limit_signal(sweep: FaultySweep) -> None:
    """Send the signal that Slurm sends before a job reaches its time limit (`--signal`)."""
    (job,) = sweep.active_job_ids()
    sweep.cluster.sh(f"scancel --signal=USR2 {job}")


def blocks_sigusr2(pid: int) -> bool:
    """Return True if a process blocks SIGUSR2, as array tasks do from their start on."""
    path = Path(f"/proc/{pid}/status")
    status = path.read_text() if path.exists() else ""
    masks = [int(line.split()[1], 16) for line in status.splitlines() if "SigBlk" in line]
    return any(mask >> (signal.SIGUSR2 - 1) & 1 for mask in masks)


@run_concurrently
def test_at_its_time_limit_a_job_requeues_itself(sweep: FaultySweep) -> None:
    sweep.set_fault("very slow", 1)
    # Slurm sends the signal up to a minute early. On a busy machine the first seconds are imports.
    limits = ("runner.slurm.time_minutes=2", "runner.slurm.signal_seconds=30")
    process = sweep.start("init.number=range(3)", "runner.pack_cells=3", *limits)
    sweep.wait_until(lambda: sweep.count("draws", 1) >= 2)
    sweep.clear_fault(1)
    output = sweep.finish(process)
    assert process.returncode == 0, output
    assert len(sweep.arrays()) == 1
    # Slurm may send the signal early, and to the second run too.
    (n_starts,) = sweep.count_starts().values()
    assert n_starts >= 2
    assert sweep.attempts() == {number: ["ok"] for number in range(3)}
    # The last cell started in a later run; the first signal may have come during the first cell.
    assert 1 <= sweep.count("draws", 0) <= n_starts
    assert 1 <= sweep.count("draws", 2) < n_starts
    # No step that was finished before a signal is repeated.
    assert len({sweep.count("steps", number) for number in range(3)}) == 1
    assert_same_tables(sweep.root, reference_results(sweep), [0, 1, 2])
    assert not sweep.leftovers()


@run_concurrently
def test_signals_before_the_start_and_in_code_that_catches_everything(sweep: FaultySweep) -> None:
    sweep.set_fault("slow", 0)  # all faults are injected inside `except BaseException`
    process = sweep.start("init.number=range(2)")
    sweep.wait_until(lambda: any(blocks_sigusr2(pid) for pid in sweep.array_task_pids()))
    send_time_limit_signal(sweep)  # while it imports its modules
    sweep.wait_until(lambda: sweep.count("steps", 0) > 2)
    send_time_limit_signal(sweep)
    sweep.wait_until(lambda: sweep.count("draws", 0) == 2)
    sweep.clear_fault(0)
    output = sweep.finish(process)
    assert process.returncode == 0, output
    assert set(sweep.count_starts().values()) == {3}
    assert sweep.attempts() == {0: ["ok"], 1: ["ok"]}
    assert sweep.count("caught", 0) == 0
    assert_same_tables(sweep.root, reference_results(sweep), [0, 1])
    assert not sweep.leftovers()


@run_concurrently
def test_a_cell_without_progress_times_out(sweep: FaultySweep) -> None:
    sweep.set_fault("hang", 1)
    process = sweep.start(
        "init.number=range(3)", "runner.pack_cells=3", "runner.slurm.signal_seconds=2"
    )
    for run in (1, 2, 3, 4):  # the first makes progress: it finishes another cell
        sweep.wait_until(lambda run=run: sweep.count("steps", 1) == run)
        send_time_limit_signal(sweep)
    output = sweep.finish(process)
    assert process.returncode == 1, output
    assert "runner.slurm.time_minutes" in output
    rows = sweep.attempts()
    assert (rows[0], rows[2]) == (["ok"], ["ok"])
    assert rows[1] == ["killed", "killed", "killed", "timeout"]
    assert "the time limit of the jobs is too short" in str(sweep.history()[1][-1].reason)
    assert_same_tables(sweep.root, reference_results(sweep), [0, 2])
    assert len(sweep.arrays()) == 1
    assert not sweep.leftovers()
