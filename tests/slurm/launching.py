"""Sweeps of tiny cells on a test cluster, launched as people launch them."""

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
# Cells that train until they are told to stop: some hundred thousand steps.
LONG = (*(word for word in TINY if not word.startswith("train.")), "train.steps=300000")
ON_SLURM = (
    "runner=slurm_cpu", "runner.slurm.cpus=1", "runner.slurm.mem_gb=null", "runner.pack_cells=2",
    "runner.target_minutes=0.000001", "runner.poll_seconds=1",
)  # fmt: skip
PATIENCE = 120  # seconds; far above what anything here takes on a quiet machine


@dataclass
class Grid:
    """A sweep's command, and what it leaves."""

    cluster: Cluster
    root: Path
    cells: tuple[str, ...] = TINY
    path: Path | None = None  # searched for commands before all else
    started: list[subprocess.Popen[Any]] = field(default_factory=list)

    @property
    def folder(self) -> SweepFolder:
        return SweepFolder(self.root / "s")

    def words(self, *more: str) -> list[str]:
        where = (f"sweep.results={self.root}", "sweep.name=s")
        given = (*self.cells, *where, *more)
        last = {word.partition("=")[0]: word for word in given}  # of the same key
        return [sys.executable, "-m", "experiments.run", "-m", *last.values()]

    def start(self, *more: str, runner: tuple[str, ...] = ON_SLURM) -> subprocess.Popen[str]:
        """The command, leader of a process group of its own."""
        env = self.cluster.env | {"OMP_NUM_THREADS": "1"}
        if self.path is not None:
            env["PATH"] = f"{self.path}{os.pathsep}{env['PATH']}"
        process = subprocess.Popen(
            self.words(*runner, *more), env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def at_terminal(self, *more: str) -> Terminal:
        """The command at a terminal."""
        terminal = Terminal(
            self.words(*ON_SLURM, *more), self.cluster.env | {"OMP_NUM_THREADS": "1"}
        )
        self.started.append(terminal.process)
        return terminal

    def end(self, process: subprocess.Popen[str]) -> str:
        """Wait for a command's end; return what it printed."""
        return communicate(process, PATIENCE)[0]

    def run(self, *more: str, runner: tuple[str, ...] = ON_SLURM) -> tuple[int, str]:
        """The command to its end: exit status, and what it printed."""
        process = self.start(*more, runner=runner)
        said = self.end(process)
        return process.returncode, said

    def command(self, module: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Another command about the sweep: `status`, `cancel`."""
        words = [sys.executable, "-m", f"experiments.{module}", "s", "--results", str(self.root)]
        return run([*words, *more], PATIENCE, env=self.cluster.env)

    def kill(self, process: subprocess.Popen[str]) -> None:
        """SIGKILL to a launcher and all that it started here."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def until(self, condition: Callable[[], object], while_alive: bool = True) -> None:
        """Wait for something to come true, not longer than the last started command lives."""
        limit = Limit(PATIENCE)
        while not condition():
            assert not limit.is_over(), f"waited in vain\n{self.cluster.sh('squeue')}"
            last = self.started[-1]
            if while_alive and last.poll() is not None:
                raise AssertionError(f"it ended first:\n{last.communicate()[0]}")
            time.sleep(0.05)

    def active(self) -> list[str]:
        """Our elements that wait or run."""
        return self.cluster.sh("squeue -h -r -o '%T %F_%K %j'").splitlines()

    def arrays(self) -> set[str]:
        """All arrays that were ever submitted for this sweep, by the queue and the accounts."""
        said = self.cluster.sh("sacct -n -P -X -D -S now-1day -o JobID,JobName")
        said += "\n" + self.cluster.sh("squeue -h -r -o '%F_%K|%j'")  # accounts lag behind
        rows = [line.split("|") for line in said.splitlines() if line]
        tokens = {path.name for path in self.folder.slurm.glob("*/")}
        return {i.partition("_")[0] for i, name in rows if name.rpartition(".")[2] in tokens}

    def running(self) -> list[Path]:
        """Journals of workers on nodes."""
        return list(self.folder.journals.glob("*/*/*.journal"))

    def strike(self, kind: signal.Signals) -> int:
        """A signal to all processes of our jobs; how many."""
        count = 0
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                said = dict(word.partition("=")[::2] for word in path.read_text().split("\0"))
                name = said.get("SLURM_JOB_NAME", "")
                if "." in name and (self.folder.slurm / name.rpartition(".")[2]).is_dir():
                    os.kill(int(path.parent.name), kind)
                    count += 1
        return count

    def rows(self) -> Counter[str]:
        """How many rows, of all attempts, each cell has."""
        parts = read_parts(self.folder, "cells")
        return Counter(cell for _, part in parts for cell in part["cell_id"].to_pylist())

    def outcomes(self) -> Counter[str]:
        """Cells by the outcome of their latest attempt."""
        return Counter(load("s", self.root).cells["outcome"].astype(str))
