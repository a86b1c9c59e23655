"""Sweeps of tiny cells on a test cluster, launched from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import Cluster
from limits import Limit, communicate, run
from stored_parts import read_parts
from terminal import Terminal

from analysis import load
from experiments.sweep.store.paths import SweepFolder

TINY = (
    "model=linear", "data.n_train=100", "data.n_test=50", "data.side=8", "train.steps=3",
    "probe=none", "scaling=unit",
)  # fmt: skip
# Cells that train until they are stopped.
LONG = (*(word for word in TINY if not word.startswith("train.")), "train.steps=300000")
ON_SLURM = (
    "runner=slurm_cpu", "runner.slurm.cpus=1", "runner.slurm.mem_gb=null", "runner.pack_cells=2",
    "runner.target_minutes=0.000001", "runner.poll_seconds=1",
)  # fmt: skip
TIMEOUT = 120  # seconds on a quiet machine, far more than any command here takes


@dataclass
class SweepCommand:
    """Command line of a sweep, and access to its results."""

    cluster: Cluster
    root: Path
    overrides: tuple[str, ...] = TINY
    path: Path | None = None  # first entry of PATH
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    @property
    def folder(self) -> SweepFolder:
        return SweepFolder(self.root / "s")

    def command_line(self, *overrides: str) -> list[str]:
        folder = (f"sweep.results={self.root}", "sweep.name=s")
        last_by_key = {o.partition("=")[0]: o for o in (*self.overrides, *folder, *overrides)}
        return [sys.executable, "-m", "experiments.run", "-m", *last_by_key.values()]

    def start(self, *overrides: str, runner: tuple[str, ...] = ON_SLURM) -> subprocess.Popen[str]:
        """Start the command in its own process group."""
        env = self.cluster.env | {"OMP_NUM_THREADS": "1"}
        if self.path is not None:
            env["PATH"] = f"{self.path}{os.pathsep}{env['PATH']}"
        process = subprocess.Popen(
            self.command_line(*runner, *overrides), env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def start_in_terminal(self, *overrides: str) -> Terminal:
        """Start the command in a pseudo-terminal."""
        command = self.command_line(*ON_SLURM, *overrides)
        terminal = Terminal(command, self.cluster.env | {"OMP_NUM_THREADS": "1"})
        self.processes.append(terminal.process)
        return terminal

    def finish(self, process: subprocess.Popen[str]) -> str:
        """Wait until a command ends; return its output."""
        return communicate(process, TIMEOUT)[0]

    def run(self, *overrides: str, runner: tuple[str, ...] = ON_SLURM) -> tuple[int, str]:
        """Run the command; return its exit status and output."""
        process = self.start(*overrides, runner=runner)
        output = self.finish(process)
        return process.returncode, output

    def run_module(self, module: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run `experiments.status` or `experiments.cancel` on the sweep."""
        command = [sys.executable, "-m", f"experiments.{module}", "s", "--results", str(self.root)]
        return run([*command, *options], TIMEOUT, env=self.cluster.env)

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Send SIGKILL to a launcher and its child processes."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def wait_until(self, condition: Callable[[], object], while_alive: bool = True) -> None:
        """Wait until the condition is true; fail if the last started command ends first."""
        limit = Limit(TIMEOUT)
        while not condition():
            assert not limit.is_over(), f"timeout\n{self.cluster.sh('squeue')}"
            last = self.processes[-1]
            if while_alive and last.poll() is not None:
                raise AssertionError(f"the command ended first:\n{last.communicate()[0]}")
            time.sleep(0.05)

    def wait_until_jobs_end(self) -> None:
        """Wait until no array task is pending or running."""
        self.wait_until(lambda: not self.active_tasks(), while_alive=False)

    def active_tasks(self) -> list[str]:
        """Return state, job id and job name of all pending and running array tasks."""
        return self.cluster.sh("squeue -h -r -o '%T %F_%K %j'").splitlines()

    def arrays(self) -> set[str]:
        """Return the job ids of all arrays ever submitted for this sweep, from squeue and sacct.

        An array that has just ended may be in neither; wait for those that the launcher recorded.
        """
        recorded = {path.read_text().strip() for path in self.folder.slurm.glob("*/job_id")}
        recorded.discard("unknown")
        self.wait_until(lambda: recorded <= self._listed_arrays(), while_alive=False)
        return self._listed_arrays()

    def _listed_arrays(self) -> set[str]:
        output = self.cluster.sh("sacct -n -P -X -D -S now-1day -o JobID,JobName")
        output += "\n" + self.cluster.sh("squeue -h -r -o '%F_%K|%j'")  # sacct lags behind
        rows = [line.split("|") for line in output.splitlines() if line]
        tokens = {path.name for path in self.folder.slurm.glob("*/")}
        return {i.partition("_")[0] for i, name in rows if name.rpartition(".")[2] in tokens}

    def open_journals(self) -> list[Path]:
        """Return the journals of workers on nodes."""
        return list(self.folder.journals.glob("*/*/*.journal"))

    def signal_jobs(self, number: signal.Signals) -> int:
        """Send a signal to all processes of the sweep's jobs; return how many there were."""
        count = 0
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                env = dict(entry.partition("=")[::2] for entry in path.read_text().split("\0"))
                name = env.get("SLURM_JOB_NAME", "")
                if "." in name and (self.folder.slurm / name.rpartition(".")[2]).is_dir():
                    os.kill(int(path.parent.name), number)
                    count += 1
        return count

    def count_rows(self) -> Counter[str]:
        """Return the number of rows of each cell, over all attempts."""
        parts = read_parts(self.folder, "cells")
        return Counter(cell for _, part in parts for cell in part["cell_id"].to_pylist())

    def outcomes(self) -> Counter[str]:
        """Return the number of cells by the outcome of their latest attempt."""
        return Counter(load("s", self.root).cells["outcome"].astype(str))
