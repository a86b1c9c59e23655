"""Nodes that die or lose their network connection."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from concurrent_tests import run_concurrently
from conftest import Cluster
from faulty_sweep import FaultySweep, assert_same_tables, reference_results

from experiments.sweep.slurm.job_manager import MISSING_SECONDS

pytestmark = pytest.mark.slurm


@run_concurrently
def test_jobs_of_a_dead_node_are_requeued_and_not_resubmitted(
    sweep: FaultySweep,
) -> None:
    cluster = sweep.cluster
    cluster.sh("scontrol update nodename=n2,n3 state=drain reason=test")
    sweep.set_fault("hang", 1, 4)
    process = sweep.start("init.number=range(6)", "runner.pack_cells=3")
    sweep.wait_until(lambda: sweep.count("steps", 1) == 1 and sweep.count("steps", 4) == 1)
    before = sweep.count_starts()
    cluster.run("kill-node", "n1")
    sweep.wait_until(lambda: len([line for line in sweep.active_tasks() if "PENDING" in line]) == 2)
    time.sleep(MISSING_SECONDS + 4)  # by then an ended job would have been reclaimed
    assert len(sweep.arrays()) == 1
    cluster.sh("scontrol update nodename=n2,n3 state=resume")
    sweep.wait_until(lambda: sweep.count("draws", 1) == 2 and sweep.count("draws", 4) == 2)
    sweep.clear_fault(1, 4)
    output = sweep.finish(process)
    assert process.returncode == 0, output
    assert sweep.count_starts() == dict.fromkeys(before, 2)
    rows = sweep.history()
    assert [row.outcome for row in rows[1]] == ["node_fail", "ok"]
    assert [row.outcome for row in rows[4]] == ["node_fail", "ok"]
    assert all([row.outcome for row in rows[number]] == ["ok"] for number in (0, 2, 3, 5))
    assert_same_tables(sweep.root, reference_results(sweep), list(range(6)))
    assert len(sweep.arrays()) == 1
    assert not sweep.leftovers()


@run_concurrently
def test_a_job_on_a_disconnected_node_writes_nothing(sweep: FaultySweep) -> None:
    cluster = Cluster(sweep.root / "cluster")
    sweep.cluster = cluster
    try:
        cluster.run("up", "--nodes", "2", "--no-accounting", "--namespaces")
        check_disconnected_node(sweep)
    finally:
        cluster.run("down")


def check_disconnected_node(sweep: FaultySweep) -> None:
    sweep.set_fault("hang", 1)
    process = sweep.start("init.number=range(3)", "runner.pack_cells=3")
    sweep.wait_until(lambda: sweep.count("steps", 1) == 1)
    (orphan,) = sweep.array_task_pids()
    node = sweep.cluster.sh("squeue -h -o %N")
    sweep.cluster.run("cut-node", node)
    sweep.wait_until(lambda: sweep.count("steps", 1) == 2)  # on the other node too
    assert len(sweep.array_task_pids()) == 2
    sweep.clear_fault(1)  # both copies continue and end
    output = sweep.finish(process)
    assert process.returncode == 0, output
    sweep.wait_until(lambda: not Path(f"/proc/{orphan}").exists(), while_alive=False)
    assert "lease lost: another process runs these cells now" in sweep.job_output()
    assert sweep.attempts() == {0: ["ok"], 1: ["killed", "ok"], 2: ["ok"]}
    assert_same_tables(sweep.root, reference_results(sweep), [0, 1, 2])
    assert not sweep.leftovers()
