"""Tests of `slurm/testcluster`: start, fault injection and complete removal of a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm

PRINT_NODE = "echo $SLURMD_NODENAME ${SLURM_RESTART_COUNT:-0}"
Up = Callable[..., Any]


def processes_mentioning(*texts: str) -> list[str]:
    """Return the command lines of processes with all texts in their command line or environment."""
    command_lines = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            text_bytes = command + (folder / "environ").read_bytes()
        except OSError:
            continue
        if all(text.encode() in text_bytes for text in texts):
            command_lines.append(command.replace(b"\0", b" ").decode())
    return command_lines


@pytest.fixture
def up(cluster: Any, tmp_path: Path) -> Iterator[Up]:
    """Yield a function that starts a separate cluster with the given options."""
    own = type(cluster)(tmp_path / "own")

    def bring_up(*options: str) -> Any:
        own.run("up", *options)
        return own

    yield bring_up
    own.run("down")


def test_up_again_does_nothing(healthy_cluster: Any) -> None:
    before = healthy_cluster.run("status")
    assert "already up" in healthy_cluster.run("up", "--max-array-size", "11")
    assert healthy_cluster.run("status") == before


def test_up_with_other_options_is_refused(healthy_cluster: Any) -> None:
    refused = healthy_cluster.try_run("up", "--nodes", "2")
    assert refused.returncode == 2
    assert "--nodes 3" in refused.stderr
    assert "down" in refused.stderr


def test_a_finished_job_is_in_the_accounting(healthy_cluster: Any) -> None:
    job = healthy_cluster.submit("exit 3")
    listing = f"sacct -X -n -P -j {job} -o State,ExitCode"
    healthy_cluster.wait(lambda: healthy_cluster.sh(listing) == "FAILED|3:0")


def test_a_job_gets_the_requested_fake_gpus(healthy_cluster: Any) -> None:
    job = healthy_cluster.submit("echo $CUDA_VISIBLE_DEVICES", "--gres=gpu:2")
    healthy_cluster.wait(lambda: healthy_cluster.output(job) == "0,1\n")


def test_max_array_size_limits_arrays(healthy_cluster: Any) -> None:
    healthy_cluster.submit("true", "--array=10", "--hold")
    with pytest.raises(AssertionError, match="Invalid job array specification"):
        healthy_cluster.submit("true", "--array=11", "--hold")


def test_a_dead_nodes_job_runs_again_elsewhere(healthy_cluster: Any) -> None:
    cluster = healthy_cluster
    marker = f"86{os.getpid():08}"
    script = f"{PRINT_NODE}; setsid env -i /bin/sleep {marker} & {PRINT_NODE} >&2; sleep 600"
    job = cluster.submit(script, "--open-mode=append", "-e /dev/null")
    cluster.wait(lambda: cluster.output(job).endswith(" 0\n"))
    cluster.wait(lambda: len(processes_mentioning(f"sleep\0{marker}")) == 1)
    node = cluster.output(job).split()[0]

    cluster.run("kill-node", node)
    assert processes_mentioning(f"sleep\0{marker}") == []
    cluster.wait(lambda: cluster.output(job).endswith(" 1\n"))
    assert cluster.output(job).split()[2] != node
    assert cluster.nodes()[node] == "down*"

    cluster.run("start-node", node)
    assert cluster.nodes()[node] == "idle"


def test_a_job_survives_a_restart_of_the_controller(healthy_cluster: Any, tmp_path: Path) -> None:
    cluster = healthy_cluster
    finish = tmp_path / "finish"
    job = cluster.submit(f"{PRINT_NODE}; until test -e {finish}; do sleep 0.1; done")
    output, state = cluster.folder / f"{job}.out", cluster.folder / "run/slurmctld/job_state"
    cluster.wait(lambda: cluster.output(job) != "")
    # A killed slurmctld forgets what it has not saved.
    cluster.wait(lambda: state.stat().st_mtime > output.stat().st_mtime)

    cluster.run("restart-controller")
    assert cluster.state(job) == "RUNNING"
    finish.touch()
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


def test_two_clusters_do_not_interfere(healthy_cluster: Any, up: Up) -> None:
    other = up("--nodes", "1", "--no-accounting")
    job, other_job = healthy_cluster.submit("sleep 600"), other.submit("sleep 600")
    healthy_cluster.wait(lambda: healthy_cluster.state(job) == "RUNNING")
    other.wait(lambda: other.state(other_job) == "RUNNING")
    other.run("kill-node", "n1")
    other.run("down")
    assert healthy_cluster.state(job) == "RUNNING"
    assert set(healthy_cluster.nodes().values()) == {"idle", "mixed"}


def test_down_leaves_nothing_of_a_crashed_cluster(up: Up) -> None:
    own = up("--nodes", "2", "--no-accounting")
    orphan = "setsid sleep 600 & kill -9 $PPID; echo orphan; while true; do sleep 1; done"
    job = own.submit(f"trap : TERM; {orphan}")
    own.wait(lambda: own.output(job) == "orphan\n")
    own.run("kill-controller")
    (own.folder / "run" / "slurmd-n1.pid").unlink()
    assert processes_mentioning(str(own.folder))
    own.run("down")
    assert processes_mentioning(str(own.folder)) == []
    assert {entry.name for entry in own.folder.iterdir()} == {"log", f"{job}.out"}
    assert own.run("down") == "no cluster was running\n"


def test_a_cluster_without_accounting_has_no_database(up: Up) -> None:
    own = up("--nodes", "1", "--no-accounting")
    job = own.submit("echo done")
    own.wait(lambda: own.output(job) == "done\n")
    assert "slurmdbd" not in own.run("status")
    refused = own.try_run("stop-database")
    assert refused.returncode == 2
    assert "up --accounting" in refused.stderr


def test_a_job_on_a_disconnected_node_keeps_running(up: Up) -> None:
    own = up("--nodes", "2", "--no-accounting", "--namespaces")
    job = own.submit(f"{PRINT_NODE}; exec sleep 600", "--open-mode=append")
    own.wait(lambda: own.output(job) != "")
    node = own.output(job).split()[0]
    own.run("cut-node", node)
    own.wait(lambda: len(own.output(job).splitlines()) == 2)
    ((first, _), (second, restarts)) = map(str.split, own.output(job).splitlines())
    assert {first, second} == {"n1", "n2"}
    assert restarts == "1"
    # Other clusters on this machine have jobs of the same number.
    assert len(processes_mentioning(f"SLURM_JOB_ID={job}\0", str(own.folder))) == 2
    own.run("join-node", node)
    own.wait(lambda: own.nodes() == {first: "idle", second: "mixed"})


def test_cut_node_needs_namespaces(cluster: Any) -> None:
    refused = cluster.try_run("cut-node", "n1")
    assert refused.returncode == 2
    assert "up --namespaces" in refused.stderr


def test_an_unknown_node_error_lists_the_nodes(cluster: Any) -> None:
    refused = cluster.try_run("kill-node", "n7")
    assert refused.returncode == 2
    assert "n1, n2, n3" in refused.stderr


@pytest.mark.parametrize(("name", "message"), [("x" * 100, "characters"), ("a b", "letters")])
def test_a_path_that_slurm_cannot_use_is_refused(
    cluster: Any, tmp_path: Path, name: str, message: str
) -> None:
    refused = type(cluster)(tmp_path / name).try_run("up")
    assert refused.returncode == 2
    assert message in refused.stderr


def test_a_folder_with_other_files_is_not_touched(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert type(cluster)(tmp_path).try_run("up").returncode == 2
    type(cluster)(tmp_path).run("down")
    assert (tmp_path / "etc").is_dir()
