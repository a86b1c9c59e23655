"""Output of `fanin status` for a sweep on a real Slurm."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cluster
from sweep_command import LONG, SweepCommand

from experiments.sweep.status.slurm import NO_ANSWER

pytestmark = pytest.mark.slurm

ONE_AT_A_TIME = ("runner.slurm.array_parallelism=1",)


@pytest.fixture
def sweep(healthy_cluster: Cluster, tmp_path: Path) -> SweepCommand:
    return SweepCommand(healthy_cluster, tmp_path, LONG)


@pytest.fixture
def three_jobs(sweep: SweepCommand) -> Iterator[SweepCommand]:
    """Three jobs, of which one may run at a time, without a launcher."""
    status, output = sweep.run("seed=range(6)", "sweep.mode=submit", *ONE_AT_A_TIME)
    assert status == 0, output
    yield sweep
    sweep.run_module("cancel")


def read_status(sweep: SweepCommand) -> dict[str, Any]:
    result = sweep.run_module("status", "--json")
    assert result.stderr == ""
    return json.loads(result.stdout)


def read_array(sweep: SweepCommand) -> dict[str, Any]:
    """Return the status of the sweep's only array."""
    (array,) = read_status(sweep)["slurm"]["submissions"]
    return array


def test_every_state_of_a_task_is_shown(three_jobs: SweepCommand) -> None:
    sweep, cluster = three_jobs, three_jobs.cluster
    (job,) = sweep.arrays()
    cluster.wait(lambda: read_array(sweep)["running"] == 1)
    array = read_array(sweep)
    assert (array["job_id"], array["tasks_left"], array["held"]) == (job, 3, [])
    assert array["nodes"] == [cluster.sh(f"squeue -h -j {job}_0 -o %N")]
    assert [(p["count"], p["reason"]) for p in array["pending"]] == [(2, "JobArrayTaskLimit")]
    cluster.wait(lambda: read_status(sweep)["counts"]["running"] == 1)
    screen = sweep.run_module("status").stdout
    assert "running on Slurm; run the sweep's command again to wait for its jobs" in screen
    assert f"job {job} 1 running on {array['nodes'][0]}" in screen
    assert "2 pending limit runner.slurm.array_parallelism reached" in screen

    cluster.sh(f"scontrol hold '{job}_[1-2]'")
    assert read_array(sweep)["held"] == [f"{job}_1", f"{job}_2"]
    cluster.sh(f"scontrol requeuehold {job}_0")
    cluster.wait(lambda: len(read_array(sweep)["held"]) == 3)
    status = read_status(sweep)
    assert (status["state"], status["counts"]["running"]) == ("queued", 0)
    assert (read_array(sweep)["requeued"], read_array(sweep)["running"]) == (1, 0)
    command = read_array(sweep)["release_command"]
    assert f"to release: {command}" in sweep.run_module("status").stdout
    cluster.sh(command)
    assert read_array(sweep)["held"] == []
    cluster.wait(lambda: read_array(sweep)["running"] == 1)

    cluster.sh(f"scancel {job}")
    cluster.wait(lambda: not sweep.active_tasks())
    cluster.wait(lambda: read_status(sweep)["state"] == "stopped")
    assert read_array(sweep)["missing"] == 3
    assert "3 missing left Slurm's queue" in sweep.run_module("status").stdout


def test_the_release_command_releases_some_held_tasks(three_jobs: SweepCommand) -> None:
    sweep, cluster = three_jobs, three_jobs.cluster
    (job,) = sweep.arrays()
    cluster.wait(lambda: read_array(sweep)["running"] == 1)
    cluster.sh(f"scontrol hold '{job}_[1-2]'")
    assert read_array(sweep)["held"] == [f"{job}_1", f"{job}_2"]
    cluster.sh(read_array(sweep)["release_command"])
    assert read_array(sweep)["held"] == []


def test_without_an_answer_of_slurm_status_reads_the_files(three_jobs: SweepCommand) -> None:
    sweep, cluster = three_jobs, three_jobs.cluster
    cluster.wait(lambda: read_status(sweep)["counts"]["running"] == 1)
    pid = int((cluster.folder / "run" / "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGSTOP)  # accepts connections but does not answer
    try:
        while_hanging = read_status(sweep)
    finally:
        os.kill(pid, signal.SIGCONT)
    cluster.run("stop-controller")
    while_stopped, screen = read_status(sweep), sweep.run_module("status").stdout
    cluster.run("start-controller")
    for status in (while_hanging, while_stopped):
        assert (status["state"], status["counts"]["running"]) == ("running", 1)
        slurm = status["slurm"]
        assert slurm["answered"] is False
        assert slurm["note"].startswith(NO_ANSWER)
        (array,) = slurm["submissions"]
        assert (array["running"], array["pending"][0]["count"]) == (1, 2)
    assert "1 started" in screen
    assert "2 not started" in screen
    assert read_status(sweep)["slurm"]["answered"] is True


def test_the_launchers_log_shows_jobs_and_warns_about_held_ones(sweep: SweepCommand) -> None:
    process = sweep.start("seed=range(4)", *ONE_AT_A_TIME)
    sweep.wait_until(sweep.open_journals)
    (job,) = sweep.arrays()
    sweep.cluster.sh(f"scontrol uhold {job}_1")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    warning = next(line for line in lines if "held" in line)
    command = f"scontrol release {job}_1"
    assert warning == f"warning: job {job}: 1 held by its user; to release: {command}\n"
    assert "1 job running, 1 held" in next(line for line in lines if " of 4 cells" in line)
    assert sweep.run_module("cancel").returncode == 0
    process.communicate()


def test_the_planned_script_is_the_submitted_one(sweep: SweepCommand) -> None:
    status, plan = sweep.run("seed=range(4)", "sweep.mode=plan")
    assert status == 0, plan
    assert "as 2 jobs in 1 array" in plan
    assert "MaxArraySize 11 (scontrol show config)" in plan
    assert not sweep.folder.root.exists()
    assert sweep.run("seed=range(4)", "sweep.mode=submit")[0] == 0
    (script,) = sweep.folder.slurm.glob("*/script.sh")
    plan_script = "#!/bin/bash" + plan.partition("#!/bin/bash")[2]
    assert plan_script.strip() == script.read_text().replace(script.parent.name, "TOKEN").strip()
    sweep.run_module("cancel")


@pytest.mark.parametrize(
    ("setting", "message", "mode"),
    [
        ("runner.slurm.partition=nowhere", "invalid partition", "run"),
        ("runner.slurm.extra={mail-tipe: END}", "mail-tipe", "submit"),
    ],
)
def test_settings_refused_by_slurm_show_its_error_and_leave_no_files(
    sweep: SweepCommand, setting: str, message: str, mode: str
) -> None:
    status, output = sweep.run("seed=range(2)", setting, f"sweep.mode={mode}")
    assert status == 2
    assert output.splitlines()[-1].startswith("sbatch: ")
    assert message in output.splitlines()[-1].lower()
    assert "Traceback" not in output
    assert not sweep.active_tasks()
    assert not [path for path in sweep.folder.slurm.rglob("*") if path.is_file()]
    assert not list(sweep.folder.journals.glob("*"))
