"""Clusters that restart their job ids, or have no accounting."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cluster
from sweep_command import SweepCommand

pytestmark = pytest.mark.slurm


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Separate cluster, which the test starts itself."""
    cluster = Cluster(tmp_path / "slurm")
    yield cluster
    cluster.run("down")


def test_a_job_id_reused_by_another_job_is_not_ours(own_cluster: Cluster, tmp_path: Path) -> None:
    own_cluster.run("up", "--nodes", "1")
    sweep = SweepCommand(own_cluster, tmp_path / "results")
    assert (
        sweep.run("seed=range(2)", "sweep.mode=submit", "runner.slurm.extra={hold: true}")[0] == 0
    )
    (job_id,) = sweep.arrays()
    own_cluster.run("down")
    own_cluster.run("up", "--nodes", "1")
    assert own_cluster.submit("sleep 600") == job_id  # another user's job
    status, output = sweep.run("seed=range(2)")
    assert status == 1, output
    assert "disappeared from the queue" in output
    assert "Run the same command again" in output
    status, output = sweep.run("seed=range(2)")
    assert status == 0, output
    assert sweep.outcomes() == Counter(ok=2)
    assert own_cluster.state(job_id) == "RUNNING"


def test_a_killed_job_is_noticed_without_accounting(own_cluster: Cluster, tmp_path: Path) -> None:
    own_cluster.run("up", "--nodes", "1", "--no-accounting")
    sweep = SweepCommand(own_cluster, tmp_path / "results")
    process = sweep.start("seed=range(2)", "train.steps=20000")
    sweep.wait_until(sweep.open_journals)
    assert sweep.signal_jobs(signal.SIGKILL) > 1
    output = sweep.finish(process)
    assert process.returncode == 0, output
    assert "no Slurm accounting" in output
    assert sweep.outcomes() == Counter(ok=2)
    assert sorted(sweep.count_rows().values()) == [1, 2]  # the running cell was lost once
