"""Nodes that die, or seem to."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from beside import beside_others
from conftest import Cluster
from faulty import Faulty, assert_same_tables, undisturbed

from experiments.sweep.slurm.job_manager import CONFIRMED

pytestmark = pytest.mark.slurm


@beside_others
def test_while_slurm_looks_for_another_node_nobody_submits_anew(faulty: Faulty) -> None:
    cluster = faulty.cluster
    cluster.sh("scontrol update nodename=n2,n3 state=drain reason=test")
    faulty.tell("deaf", 1, 4)
    sweep = faulty.start("init.number=range(6)", "runner.pack_cells=3")
    faulty.until(lambda: faulty.count("steps", 1) == 1 and faulty.count("steps", 4) == 1)
    before = faulty.runs()
    cluster.run("kill-node", "n1")
    faulty.until(lambda: len([line for line in faulty.active() if "PENDING" in line]) == 2)
    time.sleep(CONFIRMED + 4)  # a job that had ended would have been missed by then
    assert len(faulty.arrays()) == 1
    cluster.sh("scontrol update nodename=n2,n3 state=resume")
    faulty.until(lambda: faulty.count("drawn", 1) == 2 and faulty.count("drawn", 4) == 2)
    faulty.forget(1, 4)
    said = faulty.end(sweep)
    assert sweep.returncode == 0, said
    assert faulty.runs() == dict.fromkeys(before, 2)
    rows = faulty.history()
    assert [row.outcome for row in rows[1]] == ["node_fail", "ok"]
    assert [row.outcome for row in rows[4]] == ["node_fail", "ok"]
    assert all([row.outcome for row in rows[number]] == ["ok"] for number in (0, 2, 3, 5))
    assert_same_tables(faulty.root, undisturbed(faulty), list(range(6)))
    assert len(faulty.arrays()) == 1
    assert not faulty.left_over()


@beside_others
def test_a_job_on_a_node_that_is_cut_off_publishes_nothing(faulty: Faulty) -> None:
    wired = Cluster(faulty.root / "wired")
    faulty.cluster = wired
    try:
        wired.run("up", "--nodes", "2", "--no-accounting", "--namespaces")
        split(faulty)
    finally:
        wired.run("down")


def split(faulty: Faulty) -> None:
    faulty.tell("deaf", 1)
    sweep = faulty.start("init.number=range(3)", "runner.pack_cells=3")
    faulty.until(lambda: faulty.count("steps", 1) == 1)
    (orphan,) = faulty.elements()
    node = faulty.cluster.sh("squeue -h -o %N")
    faulty.cluster.run("cut-node", node)
    faulty.until(lambda: faulty.count("steps", 1) == 2)  # elsewhere too
    assert len(faulty.elements()) == 2
    faulty.forget(1)  # now both go on, and end
    said = faulty.end(sweep)
    assert sweep.returncode == 0, said
    faulty.until(lambda: not Path(f"/proc/{orphan}").exists(), while_alive=False)
    assert "somebody else has taken these cells over" in faulty.logs()
    assert faulty.attempts() == {0: ["ok"], 1: ["killed", "ok"], 2: ["ok"]}
    assert_same_tables(faulty.root, undisturbed(faulty), [0, 1, 2])
    assert not faulty.left_over()
