"""`slurm/testcluster`: a real cluster that comes up, breaks on command and leaves nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

SAY_WHERE = "echo $SLURMD_NODENAME ${SLURM_RESTART_COUNT:-0}"
Up = Callable[..., Any]


def mentioning(text: str) -> list[str]:
    """List the command lines of processes whose command line or environment holds a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            words = command + (folder / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in words:
            found.append(command.replace(b"\0", b" ").decode())
    return found


@pytest.fixture
def up(cluster: Any, tmp_path: Path) -> Iterator[Up]:
    """Bring up a cluster of the test's own."""
    own = type(cluster)(tmp_path / "own")

    def bring_up(*options: str) -> Any:
        own.run("up", *options)
        return own

    yield bring_up
    own.run("down")


def test_up_again_does_nothing(healthy_cluster: Any) -> None:
    before = healthy_cluster.run("status")
    assert "up already" in healthy_cluster.run("up", "--max-array-size", "11")
    assert healthy_cluster.run("status") == before


def test_up_with_other_options_is_refused(healthy_cluster: Any) -> None:
    refused = healthy_cluster.attempt("up", "--nodes", "2")
    assert refused.returncode == 2
    assert "--nodes 3" in refused.stderr
    assert "down" in refused.stderr


def test_a_finished_job_is_in_the_accounting(healthy_cluster: Any) -> None:
    job = healthy_cluster.submit("exit 3")
    listing = f"sacct -X -n -P -j {job} -o State,ExitCode"
    healthy_cluster.wait(lambda: healthy_cluster.sh(listing) == "FAILED|3:0")


def test_a_job_gets_the_fake_gpus_it_asks_for(healthy_cluster: Any) -> None:
    job = healthy_cluster.submit("echo $CUDA_VISIBLE_DEVICES", "--gres=gpu:2")
    healthy_cluster.wait(lambda: healthy_cluster.output(job) == "0,1\n")


def test_an_array_as_large_as_asked_for_and_no_larger(healthy_cluster: Any) -> None:
    healthy_cluster.submit("true", "--array=10", "--hold")
    with pytest.raises(AssertionError, match="Invalid job array specification"):
        healthy_cluster.submit("true", "--array=11", "--hold")


def test_a_dead_nodes_job_runs_again_elsewhere(healthy_cluster: Any) -> None:
    cluster = healthy_cluster
    marker = f"86{os.getpid():08}"
    escapes = f"{SAY_WHERE}; setsid env -i /bin/sleep {marker} & {SAY_WHERE} >&2; sleep 600"
    job = cluster.submit(escapes, "--open-mode=append", "-e /dev/null")
    cluster.wait(lambda: cluster.output(job).endswith(" 0\n"))
    cluster.wait(lambda: len(mentioning(f"sleep\0{marker}")) == 1)
    node = cluster.output(job).split()[0]

    cluster.run("kill-node", node)
    assert mentioning(f"sleep\0{marker}") == []
    cluster.wait(lambda: cluster.output(job).endswith(" 1\n"))
    assert cluster.output(job).split()[2] != node
    assert cluster.nodes()[node] == "down*"

    cluster.run("start-node", node)
    assert cluster.nodes()[node] == "idle"


def test_a_job_outlives_its_controller(healthy_cluster: Any, tmp_path: Path) -> None:
    cluster = healthy_cluster
    gate = tmp_path / "gate"
    job = cluster.submit(f"{SAY_WHERE}; until test -e {gate}; do sleep 0.1; done")
    output, state = cluster.folder / f"{job}.out", cluster.folder / "run/slurmctld/job_state"
    cluster.wait(lambda: cluster.output(job) != "")
    # What slurmctld has not saved yet, it forgets when it is killed.
    cluster.wait(lambda: state.stat().st_mtime > output.stat().st_mtime)

    cluster.run("restart-controller")
    assert cluster.state(job) == "RUNNING"
    gate.touch()
    cluster.wait(lambda: "COMPLETED" in cluster.sh(f"sacct -X -n -P -j {job} -o State"))
    assert len(cluster.output(job).splitlines()) == 1


def test_a_stopped_controller_starts_again(healthy_cluster: Any) -> None:
    healthy_cluster.run("stop-controller")
    assert "slurmctld   not running" in healthy_cluster.run("status")
    with pytest.raises(AssertionError, match="1 == 0"):
        healthy_cluster.sh("scontrol ping")
    healthy_cluster.run("start-controller")
    assert "UP" in healthy_cluster.sh("scontrol ping")


def test_without_its_database_sacct_has_no_answer(healthy_cluster: Any) -> None:
    healthy_cluster.run("stop-database")
    with pytest.raises(AssertionError, match="talking to the database"):
        healthy_cluster.sh("sacct -X")
    healthy_cluster.run("start-database")
    healthy_cluster.sh("sacct -X")


def test_two_clusters_side_by_side(healthy_cluster: Any, up: Up) -> None:
    other = up("--nodes", "1", "--no-accounting")
    here, there = healthy_cluster.submit("sleep 600"), other.submit("sleep 600")
    healthy_cluster.wait(lambda: healthy_cluster.state(here) == "RUNNING")
    other.wait(lambda: other.state(there) == "RUNNING")
    other.run("kill-node", "n1")
    other.run("down")
    assert healthy_cluster.state(here) == "RUNNING"
    assert set(healthy_cluster.nodes().values()) == {"idle", "mixed"}


def test_down_leaves_nothing_of_a_crashed_cluster(up: Up) -> None:
    own = up("--nodes", "2", "--no-accounting")
    orphan = "setsid sleep 600 & kill -9 $PPID; echo orphan; while true; do sleep 1; done"
    job = own.submit(f"trap : TERM; {orphan}")
    own.wait(lambda: own.output(job) == "orphan\n")
    own.run("kill-controller")
    (own.folder / "run" / "slurmd-n1.pid").unlink()
    assert mentioning(str(own.folder))
    own.run("down")
    assert mentioning(str(own.folder)) == []
    assert {entry.name for entry in own.folder.iterdir()} == {"log", f"{job}.out"}
    assert own.run("down") == "nothing was up\n"


def test_a_cluster_without_accounting_has_no_database(up: Up) -> None:
    own = up("--nodes", "1", "--no-accounting")
    job = own.submit("echo done")
    own.wait(lambda: own.output(job) == "done\n")
    assert "slurmdbd" not in own.run("status")
    refused = own.attempt("stop-database")
    assert refused.returncode == 2
    assert "up --accounting" in refused.stderr


def test_a_cut_off_node_works_on_beside_its_successor(up: Up) -> None:
    own = up("--nodes", "2", "--no-accounting", "--namespaces")
    job = own.submit(f"{SAY_WHERE}; exec sleep 600", "--open-mode=append")
    own.wait(lambda: own.output(job) != "")
    node = own.output(job).split()[0]
    own.run("cut-node", node)
    own.wait(lambda: len(own.output(job).splitlines()) == 2)
    ((first, _), (second, restarts)) = map(str.split, own.output(job).splitlines())
    assert {first, second} == {"n1", "n2"}
    assert restarts == "1"
    assert len(mentioning(f"SLURM_JOB_ID={job}\0")) == 2
    own.run("join-node", node)
    own.wait(lambda: own.nodes() == {first: "idle", second: "mixed"})


def test_cables_can_be_cut_only_where_there_are_any(cluster: Any) -> None:
    refused = cluster.attempt("cut-node", "n1")
    assert refused.returncode == 2
    assert "up --namespaces" in refused.stderr


def test_an_unknown_node_is_answered_by_those_there_are(cluster: Any) -> None:
    refused = cluster.attempt("kill-node", "n7")
    assert refused.returncode == 2
    assert "n1, n2, n3" in refused.stderr


@pytest.mark.parametrize(("name", "word"), [("x" * 100, "characters"), ("a b", "letters")])
def test_a_folder_that_slurm_cannot_use(cluster: Any, tmp_path: Path, name: str, word: str) -> None:
    refused = type(cluster)(tmp_path / name).attempt("up")
    assert refused.returncode == 2
    assert word in refused.stderr


def test_a_folder_with_other_things_in_it_is_left_alone(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert type(cluster)(tmp_path).attempt("up").returncode == 2
    type(cluster)(tmp_path).run("down")
    assert (tmp_path / "etc").is_dir()
