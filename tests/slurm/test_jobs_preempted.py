"""Jobs that are preempted, or requeued by a user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cluster
from faulty_sweep import FaultySweep, assert_same_tables, reference_results, steps_per_cell

pytestmark = pytest.mark.slurm


@pytest.fixture
def sweep(healthy_cluster: Cluster, tmp_path: Path) -> FaultySweep:
    return FaultySweep(healthy_cluster, tmp_path)


@pytest.fixture
def without_user_signal(healthy_cluster: Cluster) -> Iterator[Cluster]:
    """Cluster that sends SIGTERM to preempted jobs instead of the signal they requested."""
    conf = healthy_cluster.folder / "etc" / "slurm.conf"
    before = conf.read_text()
    conf.write_text(before.replace("SlurmctldParameters=preempt_send_user_signal\n", ""))
    healthy_cluster.sh("scontrol reconfigure")
    yield healthy_cluster
    conf.write_text(before)
    healthy_cluster.sh("scontrol reconfigure")


def test_a_preempted_job_resumes_at_its_checkpoint(sweep: FaultySweep) -> None:
    sweep.set_fault("slow", 1, 4)
    process = sweep.start("init.number=range(6)", "runner.pack_cells=3")
    sweep.wait_until(lambda: sweep.count("steps", 1) > 2 and sweep.count("steps", 4) > 2)
    before = sweep.count_starts()
    sweep.cluster.submit("true", "--partition=high --nodes=3 --exclusive")
    sweep.wait_until(lambda: sweep.count("draws", 1) == 2 and sweep.count("draws", 4) == 2)
    sweep.clear_fault(1, 4)
    output = sweep.finish(process)
    assert process.returncode == 0, output
    # The same jobs, each started twice.
    assert sweep.count_starts() == dict.fromkeys(before, 2)
    # No attempt was lost: each cell has one row, and no step was repeated.
    assert sweep.attempts() == {number: ["ok"] for number in range(6)}
    assert {number: sweep.count("draws", number) for number in (0, 2, 3, 5)} == {
        0: 1, 2: 1, 3: 1, 5: 1,
    }  # fmt: skip
    assert {sweep.count("steps", number) for number in range(6)} == {steps_per_cell(sweep)}
    assert_same_tables(sweep.root, reference_results(sweep), list(range(6)))
    assert not sweep.leftovers()


def test_a_job_preempted_by_sigterm_requeues_itself(
    without_user_signal: Cluster, tmp_path: Path
) -> None:
    """Slurm requeues only jobs that it kills, so a job that ends on SIGTERM must do it itself."""
    sweep = FaultySweep(without_user_signal, tmp_path)
    sweep.set_fault("slow", 1)
    process = sweep.start("init.number=range(3)", "runner.pack_cells=3")
    sweep.wait_until(lambda: sweep.count("steps", 1) > 2)
    sweep.cluster.submit("true", "--partition=high --nodes=3 --exclusive")
    sweep.wait_until(lambda: sweep.count("draws", 1) == 2)
    sweep.clear_fault(1)
    output = sweep.finish(process)
    assert process.returncode == 0, output
    assert "Received SIGTERM: workers save their checkpoints." in sweep.job_output()
    assert set(sweep.count_starts().values()) == {2}
    assert len(sweep.arrays()) == 1
    assert sweep.attempts() == {number: ["ok"] for number in range(3)}
    assert {sweep.count("steps", number) for number in range(3)} == {steps_per_cell(sweep)}
    assert_same_tables(sweep.root, reference_results(sweep), [0, 1, 2])


def test_a_requeued_job_loses_only_cells_that_did_not_react(sweep: FaultySweep) -> None:
    """A job requeued by a user gets SIGTERM, and SIGKILL soon after."""
    sweep.set_fault("slow", 1)
    sweep.set_fault("hang", 4)
    process = sweep.start("init.number=range(6)", "runner.pack_cells=3")
    sweep.wait_until(lambda: sweep.count("steps", 1) > 2 and sweep.count("steps", 4) == 1)
    before = sweep.count_starts()
    for job in sweep.active_job_ids():
        sweep.cluster.sh(f"scontrol requeue {job}")
    sweep.wait_until(lambda: sweep.count("draws", 1) == 2 and sweep.count("draws", 4) == 2)
    sweep.clear_fault(1, 4)
    output = sweep.finish(process)
    assert process.returncode == 0, output
    assert sweep.count_starts() == dict.fromkeys(before, 2)
    rows = sweep.attempts()
    assert rows == {number: ["ok"] for number in range(6)} | {4: ["killed", "ok"]}
    assert "requeued" in str(sweep.history()[4][0].reason)
    assert {sweep.count("draws", number) for number in (0, 2, 3, 5)} == {1}
    assert sweep.count("steps", 1) == steps_per_cell(sweep)
    assert sweep.count("steps", 4) == steps_per_cell(sweep) + 1
    assert_same_tables(sweep.root, reference_results(sweep), list(range(6)))
    assert not sweep.leftovers()
