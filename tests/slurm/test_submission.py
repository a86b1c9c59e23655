"""Submission of jobs, recovery after a dead launcher, and cancellation."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest
from conftest import Cluster
from limits import slowness
from sweep_command import LONG, SweepCommand

pytestmark = pytest.mark.slurm


@pytest.fixture
def sweep(healthy_cluster: Cluster, tmp_path: Path) -> SweepCommand:
    return SweepCommand(healthy_cluster, tmp_path)


def test_submit_returns_and_the_same_command_waits_for_its_jobs(sweep: SweepCommand) -> None:
    status, output = sweep.run("seed=range(4)", "sweep.mode=submit")
    assert status == 0
    (job,) = sweep.arrays()
    assert job in output
    status, output = sweep.run("seed=range(4)", "sweep.mode=submit")
    assert status == 0
    assert job in output
    status, output = sweep.run("seed=range(4)")
    assert status == 0, output
    assert set(sweep.count_rows().values()) == {1}
    assert sweep.outcomes() == Counter(ok=4)
    assert sweep.arrays() == {job}


def test_a_killed_launcher_loses_nothing(sweep: SweepCommand) -> None:
    process = sweep.start("seed=range(4)")
    sweep.wait_until(sweep.open_journals)
    sweep.kill(process)
    status, output = sweep.run("seed=range(4)")
    assert status == 0, output
    assert sweep.outcomes() == Counter(ok=4)
    assert set(sweep.count_rows().values()) == {1}
    assert len(sweep.arrays()) == 1


@pytest.mark.parametrize("when", ["before sbatch", "after sbatch"])
def test_a_launcher_killed_around_sbatch_submits_once(
    sweep: SweepCommand, tmp_path: Path, when: str
) -> None:
    # A wrapper of sbatch that kills the launcher before or after it submits.
    sweep.path = tmp_path / "bin"
    sweep.path.mkdir()
    real = sweep.cluster.sh("command -v sbatch")
    call = f'{real} "$@" >/dev/null; ' if when == "after sbatch" else ""
    (sweep.path / "sbatch").write_text(f"#!/bin/bash\n{call}kill -9 $PPID\n")
    (sweep.path / "sbatch").chmod(0o755)
    assert sweep.run("seed=range(4)")[0] == -9
    assert len(sweep.arrays()) == (when == "after sbatch")
    sweep.path = None
    status, output = sweep.run("seed=range(4)")
    assert status == 0, output
    assert sweep.outcomes() == Counter(ok=4)
    assert len(sweep.arrays()) == 1


def test_a_lost_answer_of_sbatch_causes_no_second_job(sweep: SweepCommand, tmp_path: Path) -> None:
    sweep.path = tmp_path / "bin"
    sweep.path.mkdir()
    real = sweep.cluster.sh("command -v sbatch")
    error = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    (sweep.path / "sbatch").write_text(
        f'#!/bin/bash\necho >>{tmp_path}/calls\n{real} "$@" >/dev/null\n'
        f'echo "{error}" >&2\nexit 1\n'
    )
    (sweep.path / "sbatch").chmod(0o755)
    status, output = sweep.run("seed=range(4)")
    assert status == 0, output
    assert sweep.outcomes() == Counter(ok=4)
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert len(sweep.arrays()) == 1


def test_limits_on_array_size_and_number_of_jobs_hold(sweep: SweepCommand) -> None:
    # test_chaos.py tests the limit of the site.
    process = sweep.start("seed=range(14)", "runner.max_jobs=5", "runner.max_array_size=3")
    max_active = 0
    while process.poll() is None:
        max_active = max(max_active, len(sweep.active_tasks()))
    assert process.returncode == 0, sweep.finish(process)
    assert sweep.outcomes() == Counter(ok=14)
    assert 1 < max_active <= 5
    rows = sweep.cluster.sh("sacct -n -P -X -S now-1day -o JobID,JobName").splitlines()
    tokens = {path.name for path in sweep.folder.slurm.glob("*/")}
    sizes = Counter(row.partition("_")[0] for row in rows if row.rpartition(".")[2] in tokens)
    assert len(sizes) >= 3
    assert max(sizes.values()) <= 3
    assert sum(sizes.values()) == 7


def test_cells_of_slurm_jobs_run_nowhere_else_until_cancelled(sweep: SweepCommand) -> None:
    sweep.overrides = LONG
    one_at_a_time = "runner.slurm.array_parallelism=1"
    assert sweep.run("seed=range(4)", one_at_a_time, "sweep.mode=submit")[0] == 0
    sweep.wait_until(sweep.open_journals, while_alive=False)
    status, output = sweep.run("seed=range(4)", runner=("runner=local",))
    assert status == 2
    assert "fanin cancel" in output
    cancelled = sweep.run_module("cancel")
    assert cancelled.returncode == 0, cancelled.stderr
    sweep.wait_until_jobs_end()
    assert not list(sweep.folder.journals.glob("*"))
    status, output = sweep.run("seed=range(4)", runner=("runner=local", "sweep.mode=plan"))
    assert status == 0
    assert "0 queued" in output or "queued" not in output


def test_tasks_cancelled_by_a_user_are_not_resubmitted(sweep: SweepCommand) -> None:
    sweep.overrides = LONG
    process = sweep.start("seed=range(4)", "runner.slurm.array_parallelism=1")
    sweep.wait_until(sweep.open_journals)
    (pending,) = [line.split()[1] for line in sweep.active_tasks() if line.startswith("PENDING")]
    running = [line.split()[1] for line in sweep.active_tasks() if line.startswith("RUNNING")]
    sweep.cluster.sh(f"scancel {pending}")
    sweep.cluster.sh(f"scancel {running[0]}")
    output = sweep.finish(process)
    assert process.returncode == 1, output
    assert "[0]: Slurm job" in output
    assert "[1]: Slurm job" in output
    sweep.wait_until_jobs_end()
    assert not list(sweep.folder.journals.glob("*"))


def test_a_job_without_heartbeat_is_resubmitted(sweep: SweepCommand) -> None:
    # Stopped processes simulate a job that Slurm lists as running although no process is left.
    # A job sends no heartbeat before it has read its submission.
    timeout = f"runner.heartbeat_timeout_seconds={8 * slowness():.0f}"
    process = sweep.start("seed=range(2)", "train.steps=20000", timeout)
    sweep.wait_until(sweep.open_journals)
    assert sweep.signal_jobs(signal.SIGSTOP) > 1
    output = sweep.finish(process)
    assert process.returncode == 0, output
    assert "no heartbeat from" in output
    assert sweep.outcomes() == Counter(ok=2)
    # On a busy machine the second job may time out before its first heartbeat too.
    assert len(sweep.arrays()) >= 2
    sweep.wait_until_jobs_end()


def test_submission_waits_for_the_controller(sweep: SweepCommand) -> None:
    sweep.cluster.run("stop-controller")
    process = sweep.start("seed=range(2)", "runner.max_array_size=11")
    sweep.wait_until(lambda: list(sweep.folder.slurm.glob("*/script.sh")))
    sweep.cluster.run("start-controller")
    output = sweep.finish(process)
    assert process.returncode == 0, output
    assert sweep.outcomes() == Counter(ok=2)
    assert len(sweep.arrays()) == 1


def test_controller_and_database_may_stop_while_jobs_run(sweep: SweepCommand) -> None:
    process = sweep.start("seed=range(6)")
    sweep.wait_until(sweep.open_journals)
    sweep.cluster.run("stop-database")
    sweep.cluster.run("kill-controller")
    sweep.wait_until(lambda: True)
    sweep.cluster.run("start-controller")
    sweep.cluster.run("start-database")
    output = sweep.finish(process)
    assert process.returncode == 0, output
    assert sweep.outcomes() == Counter(ok=6)
    assert set(sweep.count_rows().values()) == {1}
