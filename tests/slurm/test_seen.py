"""A sweep on a real Slurm, as `experiments.status` shows it from its submission to its end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cluster
from launching import LONG, Grid

pytestmark = pytest.mark.slurm

ONE_AT_A_TIME = ("runner.slurm.array_parallelism=1",)


@pytest.fixture
def grid(healthy_cluster: Cluster, tmp_path: Path) -> Grid:
    return Grid(healthy_cluster, tmp_path, LONG)


@pytest.fixture
def three(grid: Grid) -> Iterator[Grid]:
    """Three jobs, one of which may run at a time, and no launcher."""
    status, said = grid.run("seed=range(6)", "sweep.mode=submit", *ONE_AT_A_TIME)
    assert status == 0, said
    yield grid
    grid.command("cancel")


def seen(grid: Grid) -> dict[str, Any]:
    done = grid.command("status", "--json")
    assert done.stderr == ""
    return json.loads(done.stdout)


def array(grid: Grid) -> dict[str, Any]:
    """The one array of the sweep, as status sees it."""
    (only,) = seen(grid)["slurm"]["submissions"]
    return only


def test_pending_running_requeued_held_released_and_gone(three: Grid) -> None:
    grid, cluster = three, three.cluster
    (job,) = grid.arrays()
    cluster.wait(lambda: array(grid)["running"] == 1)
    one = array(grid)
    assert (one["job_id"], one["elements_left"], one["held"]) == (job, 3, [])
    assert one["nodes"] == [cluster.sh(f"squeue -h -j {job}_0 -o %N")]
    assert [(w["count"], w["reason"]) for w in one["waiting"]] == [(2, "JobArrayTaskLimit")]
    cluster.wait(lambda: seen(grid)["counts"]["running"] == 1)
    shown = grid.command("status").stdout
    assert "running on Slurm; the same command waits for it" in shown
    assert f"job {job} 1 run  on {one['nodes'][0]}" in shown
    assert "2 wait as many run as runner.slurm.array_parallelism allows" in shown

    cluster.sh(f"scontrol hold '{job}_[1-2]'")
    assert array(grid)["held"] == [f"{job}_1", f"{job}_2"]
    cluster.sh(f"scontrol requeuehold {job}_0")
    cluster.wait(lambda: len(array(grid)["held"]) == 3)
    now = seen(grid)
    assert (now["state"], now["counts"]["running"]) == ("queued", 0)
    assert (array(grid)["requeued"], array(grid)["running"]) == (1, 0)
    release = array(grid)["release"]
    assert f"to free them: {release}" in grid.command("status").stdout
    cluster.sh(release)  # to the letter, in a shell
    assert array(grid)["held"] == []
    cluster.wait(lambda: array(grid)["running"] == 1)

    cluster.sh(f"scancel {job}")
    cluster.wait(lambda: not grid.active())
    cluster.wait(lambda: seen(grid)["state"] == "stopped")
    assert array(grid)["gone"] == 3
    assert "3 gone from Slurm's queue" in grid.command("status").stdout


def test_a_command_that_frees_some_frees_those(three: Grid) -> None:
    grid, cluster = three, three.cluster
    (job,) = grid.arrays()
    cluster.wait(lambda: array(grid)["running"] == 1)
    cluster.sh(f"scontrol hold '{job}_[1-2]'")
    assert array(grid)["held"] == [f"{job}_1", f"{job}_2"]
    cluster.sh(array(grid)["release"])
    assert array(grid)["held"] == []


def test_a_controller_that_is_away_or_silent_leaves_the_files(three: Grid) -> None:
    grid, cluster = three, three.cluster
    cluster.wait(lambda: seen(grid)["counts"]["running"] == 1)
    pid = int((cluster.folder / "run" / "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGSTOP)  # takes calls, and answers none
    try:
        silent = seen(grid)
    finally:
        os.kill(pid, signal.SIGCONT)
    cluster.run("stop-controller")
    away, shown = seen(grid), grid.command("status").stdout
    cluster.run("start-controller")
    for now in (silent, away):
        assert (now["state"], now["counts"]["running"]) == ("running", 1)
        assert now["slurm"]["answered"] is False
        assert now["slurm"]["note"].startswith("Slurm doesn't answer; this is from the files")
        (one,) = now["slurm"]["submissions"]
        assert (one["running"], one["waiting"][0]["count"]) == (1, 2)
    assert "1 begun" in shown
    assert "2 not begun" in shown
    assert seen(grid)["slurm"]["answered"] is True


def test_the_launchers_own_log_tells_of_jobs_and_of_held_ones(grid: Grid) -> None:
    process = grid.start("seed=range(4)", *ONE_AT_A_TIME)
    grid.until(grid.running)
    (job,) = grid.arrays()
    grid.cluster.sh(f"scontrol uhold {job}_1")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    told = next(line for line in lines if "held" in line)
    assert told == f"warning: job {job}: 1 held by its user; to free them: " + (
        f"scontrol release {job}_1\n"
    )
    assert "1 job running, 1 held" in next(line for line in lines if " of 4 cells" in line)
    assert grid.command("cancel").returncode == 0
    process.communicate()


def test_what_the_plan_shows_is_what_is_submitted(grid: Grid) -> None:
    status, planned = grid.run("seed=range(4)", "sweep.mode=plan")
    assert status == 0, planned
    assert "as 2 jobs in 1 array" in planned
    assert "MaxArraySize 11, as scontrol says" in planned
    assert not grid.folder.root.exists()
    assert grid.run("seed=range(4)", "sweep.mode=submit")[0] == 0
    (script,) = grid.folder.slurm.glob("*/script.sh")
    shown = "#!/bin/bash" + planned.partition("#!/bin/bash")[2]
    assert shown.strip() == script.read_text().replace(script.parent.name, "TOKEN").strip()
    grid.command("cancel")


@pytest.mark.parametrize(
    ("setting", "says", "mode"),
    [
        ("runner.slurm.partition=nowhere", "invalid partition", "run"),
        ("runner.slurm.extra={mail-tipe: END}", "mail-tipe", "submit"),
    ],
)
def test_what_only_slurm_can_refuse_is_said_in_its_words_and_leaves_nothing(
    grid: Grid, setting: str, says: str, mode: str
) -> None:
    status, said = grid.run("seed=range(2)", setting, f"sweep.mode={mode}")
    assert status == 2
    assert said.splitlines()[-1].startswith("sbatch: ")
    assert says in said.splitlines()[-1].lower()
    assert "Traceback" not in said
    assert not grid.active()
    assert not [path for path in grid.folder.slurm.rglob("*") if path.is_file()]
    assert not list(grid.folder.journals.glob("*"))
