"""Jobs that are told to end: preempted, requeued from outside, or at their time limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cluster
from faulty import Faulty, assert_same_tables, steps_of_one, undisturbed

pytestmark = pytest.mark.slurm


@pytest.fixture
def faulty(healthy_cluster: Cluster, tmp_path: Path) -> Faulty:
    return Faulty(healthy_cluster, tmp_path)


@pytest.fixture
def without_user_signal(healthy_cluster: Cluster) -> Iterator[Cluster]:
    """A site that sends the jobs it preempts SIGTERM, and no signal of their choice."""
    conf = healthy_cluster.folder / "etc" / "slurm.conf"
    before = conf.read_text()
    conf.write_text(before.replace("SlurmctldParameters=preempt_send_user_signal\n", ""))
    healthy_cluster.sh("scontrol reconfigure")
    yield healthy_cluster
    conf.write_text(before)
    healthy_cluster.sh("scontrol reconfigure")


def test_a_preempted_job_goes_on_where_it_was(faulty: Faulty) -> None:
    faulty.tell("slow", 1, 4)
    sweep = faulty.start("init.number=range(6)", "runner.pack_cells=3")
    faulty.until(lambda: faulty.count("steps", 1) > 2 and faulty.count("steps", 4) > 2)
    before = faulty.runs()
    faulty.cluster.submit("true", "--partition=high --nodes=3 --exclusive")
    faulty.until(lambda: faulty.count("drawn", 1) == 2 and faulty.count("drawn", 4) == 2)
    faulty.forget(1, 4)
    said = faulty.end(sweep)
    assert sweep.returncode == 0, said
    # The same jobs, each started once more.
    assert faulty.runs() == dict.fromkeys(before, 2)
    # No attempt was lost: each cell has one row, and no step was taken twice.
    assert faulty.attempts() == {number: ["ok"] for number in range(6)}
    assert {number: faulty.count("drawn", number) for number in (0, 2, 3, 5)} == {
        0: 1, 2: 1, 3: 1, 5: 1,
    }  # fmt: skip
    assert {faulty.count("steps", number) for number in range(6)} == {steps_of_one(faulty)}
    assert_same_tables(faulty.root, undisturbed(faulty), list(range(6)))
    assert not faulty.left_over()


def test_a_job_that_is_preempted_by_sigterm_goes_on_too(
    without_user_signal: Cluster, tmp_path: Path
) -> None:
    """Left to itself it would have failed: Slurm requeues what it has to kill, and no other."""
    faulty = Faulty(without_user_signal, tmp_path)
    faulty.tell("slow", 1)
    sweep = faulty.start("init.number=range(3)", "runner.pack_cells=3")
    faulty.until(lambda: faulty.count("steps", 1) > 2)
    faulty.cluster.submit("true", "--partition=high --nodes=3 --exclusive")
    faulty.until(lambda: faulty.count("drawn", 1) == 2)
    faulty.forget(1)
    said = faulty.end(sweep)
    assert sweep.returncode == 0, said
    assert "SIGTERM: workers keep what they are at" in faulty.logs()
    assert set(faulty.runs().values()) == {2}
    assert len(faulty.arrays()) == 1
    assert faulty.attempts() == {number: ["ok"] for number in range(3)}
    assert {faulty.count("steps", number) for number in range(3)} == {steps_of_one(faulty)}
    assert_same_tables(faulty.root, undisturbed(faulty), [0, 1, 2])


def test_a_requeued_job_has_lost_what_did_not_hear_of_it(faulty: Faulty) -> None:
    """Requeued from outside a job gets SIGTERM, and SIGKILL soon after."""
    faulty.tell("slow", 1)
    faulty.tell("deaf", 4)
    sweep = faulty.start("init.number=range(6)", "runner.pack_cells=3")
    faulty.until(lambda: faulty.count("steps", 1) > 2 and faulty.count("steps", 4) == 1)
    before = faulty.runs()
    for job in faulty.jobs():
        faulty.cluster.sh(f"scontrol requeue {job}")
    faulty.until(lambda: faulty.count("drawn", 1) == 2 and faulty.count("drawn", 4) == 2)
    faulty.forget(1, 4)
    said = faulty.end(sweep)
    assert sweep.returncode == 0, said
    assert faulty.runs() == dict.fromkeys(before, 2)
    rows = faulty.attempts()
    assert rows == {number: ["ok"] for number in range(6)} | {4: ["killed", "ok"]}
    assert "requeued" in str(faulty.history()[4][0].reason)
    assert {faulty.count("drawn", number) for number in (0, 2, 3, 5)} == {1}
    assert faulty.count("steps", 1) == steps_of_one(faulty)
    assert faulty.count("steps", 4) == steps_of_one(faulty) + 1
    assert_same_tables(faulty.root, undisturbed(faulty), list(range(6)))
    assert not faulty.left_over()
