"""Submitting, leaving, finding again, cancelling."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest
from conftest import Cluster
from launching import LONG, Grid
from limits import slowness

pytestmark = pytest.mark.slurm


@pytest.fixture
def grid(healthy_cluster: Cluster, tmp_path: Path) -> Grid:
    return Grid(healthy_cluster, tmp_path)


def test_submit_returns_and_the_same_command_waits_for_the_same_jobs(grid: Grid) -> None:
    status, said = grid.run("seed=range(4)", "sweep.mode=submit")
    assert status == 0
    (job,) = grid.arrays()
    assert job in said
    again, said = grid.run("seed=range(4)", "sweep.mode=submit")
    assert again == 0
    assert job in said
    status, said = grid.run("seed=range(4)")
    assert status == 0, said
    assert set(grid.rows().values()) == {1}
    assert grid.outcomes() == Counter(ok=4)
    assert grid.arrays() == {job}


def test_a_killed_launcher_loses_nothing(grid: Grid) -> None:
    process = grid.start("seed=range(4)")
    grid.until(grid.running)
    grid.kill(process)
    status, said = grid.run("seed=range(4)")
    assert status == 0, said
    assert grid.outcomes() == Counter(ok=4)
    assert set(grid.rows().values()) == {1}
    assert len(grid.arrays()) == 1


@pytest.mark.parametrize("when", ["before sbatch", "after sbatch"])
def test_a_launcher_killed_around_sbatch_submits_once(
    grid: Grid, tmp_path: Path, when: str
) -> None:
    # A wrapper of the real sbatch, which kills its caller at that very moment.
    grid.path = tmp_path / "bin"
    grid.path.mkdir()
    real = grid.cluster.sh("command -v sbatch")
    submits = f'{real} "$@" >/dev/null; ' if when == "after sbatch" else ""
    (grid.path / "sbatch").write_text(f"#!/bin/bash\n{submits}kill -9 $PPID\n")
    (grid.path / "sbatch").chmod(0o755)
    assert grid.run("seed=range(4)")[0] == -9
    assert len(grid.arrays()) == (when == "after sbatch")
    grid.path = None
    status, said = grid.run("seed=range(4)")
    assert status == 0, said
    assert grid.outcomes() == Counter(ok=4)
    assert len(grid.arrays()) == 1


def test_an_answer_of_sbatch_that_is_lost_makes_no_second_job(grid: Grid, tmp_path: Path) -> None:
    grid.path = tmp_path / "bin"
    grid.path.mkdir()
    real = grid.cluster.sh("command -v sbatch")
    lost = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    (grid.path / "sbatch").write_text(
        f'#!/bin/bash\necho >>{tmp_path}/calls\n{real} "$@" >/dev/null; echo "{lost}" >&2; exit 1\n'
    )
    (grid.path / "sbatch").chmod(0o755)
    status, said = grid.run("seed=range(4)")
    assert status == 0, said
    assert grid.outcomes() == Counter(ok=4)
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert len(grid.arrays()) == 1


def test_arrays_are_cut_at_their_limit_and_jobs_at_theirs(grid: Grid) -> None:
    # The site's own limit is what test_chaos.py meets.
    process = grid.start("seed=range(14)", "runner.max_jobs=5", "runner.max_array_size=3")
    most = 0
    while process.poll() is None:
        most = max(most, len(grid.active()))
    assert process.returncode == 0, grid.end(process)
    assert grid.outcomes() == Counter(ok=14)
    assert 1 < most <= 5
    sizes = grid.cluster.sh("sacct -n -P -X -S now-1day -o JobID,JobName").splitlines()
    tokens = {path.name for path in grid.folder.slurm.glob("*/")}
    ours = Counter(row.partition("_")[0] for row in sizes if row.rpartition(".")[2] in tokens)
    assert len(ours) >= 3
    assert max(ours.values()) <= 3
    assert sum(ours.values()) == 7


def test_cells_that_slurm_has_run_nowhere_else_until_they_are_cancelled(grid: Grid) -> None:
    grid.cells = LONG
    one = "runner.slurm.array_parallelism=1"
    assert grid.run("seed=range(4)", one, "sweep.mode=submit")[0] == 0
    grid.until(grid.running, while_alive=False)
    status, said = grid.run("seed=range(4)", runner=("runner=local",))
    assert status == 2
    assert "experiments.cancel" in said
    done = grid.command("cancel")
    assert done.returncode == 0, done.stderr
    assert not grid.active()
    assert not list(grid.folder.journals.glob("*"))
    status, said = grid.run("seed=range(4)", runner=("runner=local", "sweep.mode=plan"))
    assert status == 0
    assert "0 queued" in said or "queued" not in said


def test_pending_elements_that_vanish_are_cancelled_and_run_again_on_demand(grid: Grid) -> None:
    grid.cells = LONG
    process = grid.start("seed=range(4)", "runner.slurm.array_parallelism=1")
    grid.until(grid.running)
    (waits,) = [line.split()[1] for line in grid.active() if line.startswith("PENDING")]
    runs = [line.split()[1] for line in grid.active() if line.startswith("RUNNING")]
    grid.cluster.sh(f"scancel {waits}")
    grid.cluster.sh(f"scancel {runs[0]}")
    said = grid.end(process)
    assert process.returncode == 1, said
    assert "[0]: its job" in said
    assert "[1]: its job" in said
    assert not grid.active()
    assert not list(grid.folder.journals.glob("*"))


def test_a_job_that_gives_no_sign_of_life_is_taken_for_dead(grid: Grid) -> None:
    # Stopped processes stand in for a job that Slurm holds for running when nothing is left of it.
    silent = f"runner.heartbeat_timeout_seconds={8 * slowness():.0f}"  # a job that loads gives no sign either
    process = grid.start("seed=range(2)", "train.steps=20000", silent)
    grid.until(grid.running)
    assert grid.strike(signal.SIGSTOP) > 1
    said = grid.end(process)
    assert process.returncode == 0, said
    assert "nothing was heard of it on" in said
    assert grid.outcomes() == Counter(ok=2)
    # The second job too may load for longer than it may be silent, on a busy machine.
    assert len(grid.arrays()) >= 2
    assert not grid.active()


def test_without_a_controller_submission_waits_for_it(grid: Grid) -> None:
    grid.cluster.run("stop-controller")
    process = grid.start("seed=range(2)", "runner.max_array_size=11")
    grid.until(lambda: list(grid.folder.slurm.glob("*/script.sh")))
    grid.cluster.run("start-controller")
    said = grid.end(process)
    assert process.returncode == 0, said
    assert grid.outcomes() == Counter(ok=2)
    assert len(grid.arrays()) == 1


def test_controller_and_database_may_go_in_the_middle_of_an_array(grid: Grid) -> None:
    process = grid.start("seed=range(6)")
    grid.until(grid.running)
    grid.cluster.run("stop-database")
    grid.cluster.run("kill-controller")
    grid.until(lambda: True)
    grid.cluster.run("start-controller")
    grid.cluster.run("start-database")
    said = grid.end(process)
    assert process.returncode == 0, said
    assert grid.outcomes() == Counter(ok=6)
    assert set(grid.rows().values()) == {1}
