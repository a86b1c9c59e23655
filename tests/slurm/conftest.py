"""A real Slurm cluster for tests, made by `slurm/testcluster`."""

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
    """One folder's cluster, worked by commands as a person would."""

    folder: Path

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a testcluster command that may fail."""
        command = [sys.executable, str(TESTCLUSTER), *words, "--folder", str(self.folder)]
        return run(command, 180)

    def run(self, *words: str) -> str:
        """Run a testcluster command that has to succeed; return what it prints."""
        done = self.attempt(*words)
        assert done.returncode == 0, f"testcluster {' '.join(words)}: {done.stderr}"
        return done.stdout

    @property
    def env(self) -> dict[str, str]:
        """The environment in which Slurm's commands talk to this cluster."""
        return os.environ | {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def sh(self, command: str) -> str:
        """Run a shell line with Slurm commands that has to succeed; return its output."""
        done = run(["bash", "-c", command], 60, env=self.env)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def wait(self, predicate: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until something holds; the seconds are a limit, never a claim."""
        limit = Limit(seconds)
        while not predicate():
            assert not limit.is_over(), f"waited {seconds} s\n{self.attempt('status')}"
            time.sleep(0.1)

    def submit(self, script: str, *options: str) -> str:
        """Submit a shell line as a job; return the job's number."""
        words = " ".join(options)
        return self.sh(f"sbatch --parsable -o {self.folder}/%j.out {words} --wrap '{script}'")

    def state(self, job: str) -> str:
        """Return a queued job's state, or "" when it has left the queue."""
        return self.sh(f"squeue -h -o %T -j {job} 2>/dev/null || true")

    def output(self, job: str) -> str:
        """Return what a job from `submit` has printed so far."""
        path = self.folder / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def nodes(self) -> dict[str, str]:
        return dict(line.split() for line in self.sh("sinfo -hNp main -o '%N %T'").splitlines())

    def resume(self) -> None:
        """Give work again to nodes that Slurm has drained, as it does after some accidents."""
        drained = [name for name, state in self.nodes().items() if state.startswith("drain")]
        if drained:
            self.sh(f"scontrol update nodename={','.join(drained)} state=resume")

    def heal(self) -> None:
        """Bring it back to how `up` left it: all daemons running, nothing queued, nodes idle."""
        if self._is_healthy():
            return
        self.run("start-controller")
        if "slurmdbd" in self.run("status"):
            self.run("start-database")
        names = list(self.nodes())
        for name in names:
            self.run("start-node", name)
        self.sh("squeue -h -o %A | sort -u | xargs -r scancel")
        self.wait(lambda: not self.sh("squeue -h"))
        self.resume()
        self.wait(lambda: self.nodes() == dict.fromkeys(names, "idle"))

    def _is_healthy(self) -> bool:
        queue = subprocess.run(["squeue", "-h"], env=self.env, capture_output=True, text=True)
        if queue.returncode or queue.stdout or set(self.nodes().values()) != {"idle"}:
            return False
        return "not running" not in self.run("status")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes with accounting, in whatever state the last test left them."""
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    cluster.run("up", "--nodes", "3", "--max-array-size", "11")
    yield cluster
    cluster.run("down")


@pytest.fixture
def healthy_cluster(cluster: Cluster) -> Cluster:
    """The same cluster with all daemons running, an empty queue and idle nodes."""
    cluster.heal()
    return cluster


@pytest.fixture(scope="module")
def beside(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Start the bodies of a file's tests that were asked for and are `beside_others`."""
    from faulty import Faulty

    asked = [item.function for item in request.session.items if item.module is request.module]
    bodies = [test.body for test in asked if hasattr(test, "body")]
    cluster.heal()
    sweeps = {body: Faulty(cluster, tmp_path_factory.mktemp("s")) for body in bodies}
    with ThreadPoolExecutor(len(bodies)) as pool:
        started = {body: pool.submit(body, sweep) for body, sweep in sweeps.items()}
        yield started.__getitem__
    for sweep in sweeps.values():
        sweep.kill_all()
