"""Fixtures with a real Slurm cluster, started by `slurm/testcluster`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from limits import Limit, run

TESTCLUSTER = Path(__file__).parents[2] / "slurm" / "testcluster"


@dataclass(frozen=True)
class Cluster:
    """Cluster in a folder, controlled by the commands of `slurm/testcluster` and Slurm."""

    folder: Path

    def try_run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a testcluster command that may fail."""
        command = [sys.executable, str(TESTCLUSTER), *arguments, "--folder", str(self.folder)]
        return run(command, 180)

    def run(self, *arguments: str) -> str:
        """Run a testcluster command, assert that it succeeds, and return its output."""
        result = self.try_run(*arguments)
        assert result.returncode == 0, f"testcluster {' '.join(arguments)}: {result.stderr}"
        return result.stdout

    @property
    def env(self) -> dict[str, str]:
        """Environment in which Slurm's commands use this cluster."""
        return os.environ | {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def sh(self, command: str) -> str:
        """Run a shell line with Slurm commands, assert that it succeeds, and return its output."""
        result = run(["bash", "-c", command], 60, env=self.env)
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout.strip()

    def wait(self, predicate: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until the predicate is true, at most `seconds` on a quiet machine."""
        limit = Limit(seconds)
        while not predicate():
            assert not limit.is_over(), f"waited {seconds} s\n{self.try_run('status')}"
            time.sleep(0.1)

    def submit(self, script: str, *options: str) -> str:
        """Submit a shell line as a job; return the job id."""
        output = f"{self.folder}/%j.out"
        return self.sh(f"sbatch --parsable -o {output} {' '.join(options)} --wrap '{script}'")

    def state(self, job: str) -> str:
        """Return the state of a queued job, or "" if it has left the queue."""
        return self.sh(f"squeue -h -o %T -j {job} 2>/dev/null || true")

    def output(self, job: str) -> str:
        """Return the output so far of a job started by `submit`."""
        path = self.folder / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def nodes(self) -> dict[str, str]:
        return dict(line.split() for line in self.sh("sinfo -hNp main -o '%N %T'").splitlines())

    def resume(self) -> None:
        """Resume nodes that Slurm has drained or set down after a failure."""
        drained = [
            name for name, state in self.nodes().items() if state.startswith(("drain", "down"))
        ]
        if drained:
            self.sh(f"scontrol update nodename={','.join(drained)} state=resume")

    def heal(self) -> None:
        """Restore the state after `up`: all daemons running, empty queue, idle nodes."""
        if self._is_healthy():
            return
        self.run("start-controller")
        if "slurmdbd" in self.run("status"):
            self.run("start-database")
        names = list(self.nodes())
        for name in names:
            self.run("start-node", name)
        if not self._cancel_all(Limit(20)):
            # A controller that was killed may wait forever for the end of a job that it forgot.
            # A node that goes down ends its jobs.
            self.sh(f"scontrol update nodename={','.join(names)} state=down reason=heal")
            self.wait(lambda: self._cancel_all(Limit(5)))
        self.resume()
        self.wait(lambda: self.nodes() == dict.fromkeys(names, "idle"))

    def _cancel_all(self, limit: Limit) -> bool:
        """Cancel all jobs; return True if the queue becomes empty before the limit."""
        while jobs := self.sh("squeue -h -o %A | sort -u"):
            if limit.is_over():
                return False
            self.sh(f"scancel {' '.join(jobs.split())} || true")  # some may have just ended
            time.sleep(0.5)
        return True

    def _is_healthy(self) -> bool:
        queue = subprocess.run(["squeue", "-h"], env=self.env, capture_output=True, text=True)
        if queue.returncode or queue.stdout or set(self.nodes().values()) != {"idle"}:
            return False
        return "not running" not in self.run("status")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes with accounting, in the state that the last test left."""
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    cluster.run("up", "--nodes", "3", "--max-array-size", "11")
    yield cluster
    cluster.run("down")


@pytest.fixture
def healthy_cluster(cluster: Cluster) -> Cluster:
    """Restore the cluster: all daemons running, an empty queue and idle nodes."""
    cluster.heal()
    return cluster


@pytest.fixture(scope="module")
def concurrent_bodies(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Start the bodies of the file's selected tests that are marked with `run_concurrently`."""
    from faulty_sweep import FaultySweep

    selected = [item.function for item in request.session.items if item.module is request.module]
    bodies = [test.body for test in selected if hasattr(test, "body")]
    cluster.heal()
    sweeps = {body: FaultySweep(cluster, tmp_path_factory.mktemp("s")) for body in bodies}
    with ThreadPoolExecutor(len(bodies)) as pool:
        futures = {body: pool.submit(body, sweep) for body, sweep in sweeps.items()}
        yield futures.__getitem__
    for sweep in sweeps.values():
        sweep.kill_all()
