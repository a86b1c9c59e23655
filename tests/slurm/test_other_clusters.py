"""Clusters that are not as the others: numbered anew, or without accounts."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cluster
from launching import Grid

pytestmark = pytest.mark.slurm


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of this test's own, which it has to bring up itself."""
    cluster = Cluster(tmp_path / "slurm")
    yield cluster
    cluster.run("down")


def test_a_number_that_another_job_has_now_is_not_taken_for_ours(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    own_cluster.run("up", "--nodes", "1")
    grid = Grid(own_cluster, tmp_path / "results")
    assert grid.run("seed=range(2)", "sweep.mode=submit", "runner.slurm.extra={hold: true}")[0] == 0
    (ours,) = grid.arrays()
    own_cluster.run("down")
    own_cluster.run("up", "--nodes", "1")
    assert own_cluster.submit("sleep 600") == ours  # somebody else's
    status, said = grid.run("seed=range(2)")
    assert status == 1, said
    assert "vanished from the queue" in said
    assert "the same command runs them again" in said
    status, said = grid.run("seed=range(2)")
    assert status == 0, said
    assert grid.outcomes() == Counter(ok=2)
    assert own_cluster.state(ours) == "RUNNING"


def test_without_accounts_a_killed_job_is_noticed_all_the_same(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    own_cluster.run("up", "--nodes", "1", "--no-accounting")
    grid = Grid(own_cluster, tmp_path / "results")
    process = grid.start("seed=range(2)", "train.steps=20000")
    grid.until(grid.running)
    assert grid.strike(signal.SIGKILL) > 1
    said = grid.end(process)
    assert process.returncode == 0, said
    assert "Slurm keeps no accounts" in said
    assert grid.outcomes() == Counter(ok=2)
    assert sorted(grid.rows().values()) == [1, 2]  # the one at work was lost once
