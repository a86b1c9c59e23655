"""Sweeps in real processes whose cells wait or fail as files of a test specify (`troubled.py`)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from speed import Deadline
from stored_parts import read_parts

from experiments.sweep.store.journal import read_events, read_writer
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.process import ProcessId

SCHEME = Path(__file__).with_name("troubled.py")

TINY = [
    "model=linear",
    "data.n_train=100",
    "data.n_test=50",
    "data.side=8",
    "train.steps=3",
    "probe=none",
    "scaling=unit",
    "sweep.name=s",
]
TROUBLED = [*TINY, "init=custom", "init._target_=troubled.sample"]
# Cells that leave rows in all tables, have an activation to fail in, and can be stacked.
FAULTY = [
    "model=mlp",
    "model.depth=2",
    "model.width=4",
    "activation._target_=troubled.Activation",
    *(word for word in TROUBLED if word not in ("model=linear", "probe=none")),
    "probe.draws=1",
    "probe.size=8",
    "probe.histograms=true",
]
PATIENCE = 300  # seconds, far above what anything here takes; scaled by the speed of the machine


@dataclass(frozen=True)
class Site:
    """A folder of files that make cells fail (see `troubled.py`), and of a sweep's results.

    `base_arguments` are overrides that every command starts with. `results_root` is the folder of
    results; None: `root`.
    """

    root: Path
    base_arguments: tuple[str, ...] = tuple(TROUBLED)
    results_root: Path | None = None

    @property
    def results(self) -> Path:
        return self.results_root or self.root

    @property
    def folder(self) -> SweepFolder:
        return SweepFolder(self.results / "s")

    def overrides(self, *more: str) -> list[str]:
        return [*self.base_arguments, f"sweep.results={self.results}", *more]

    def write_file(self, name: str, content: str = "") -> None:
        (self.root / name).write_text(content)

    def remove_files(self, *patterns: str) -> None:
        for pattern in patterns:
            for path in self.root.glob(pattern):
                path.unlink()

    def runs(self, number: int) -> int:
        """Return how often the weights of a cell were drawn."""
        path = self.root / f"ran-{number}"
        return len(path.read_text()) if path.exists() else 0

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start `python -m experiments.run -m ...` in a new process group."""
        arguments = [sys.executable, "-m", "experiments.run", "-m", *self.overrides(*more)]
        path = os.pathsep.join([str(self.root), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            arguments,
            cwd=self.root,
            env=os.environ | {"TROUBLED": str(self.root), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def held_workers(self) -> dict[int, int]:
        """Return the process numbers of waiting workers, by the number of their cell."""
        waiting = {}
        for path in self.folder.journals.glob("*.journal"):
            try:
                events, writer = read_events(path)[0], read_writer(path)
            except FileNotFoundError:  # its pack has ended
                continue
            if events and events[-1].kind in ("start", "at") and writer is not None:
                number = self.numbers().get(events[-1].cell_id, -1)
                if (self.root / f"hold-{number}").exists() and self.runs(number):
                    waiting[number] = writer.process.pid
        return waiting

    def numbers(self) -> dict[str, int]:
        """Return the number (`init.number`) of each planned cell, by cell id."""
        lines = self.folder.plan.read_text().splitlines()
        planned = [json.loads(line) for line in lines]
        return {line["cell_id"]: line["config"]["init"]["number"] for line in planned}

    def rows(self) -> Counter[int]:
        """Return the number of rows of each cell, over all attempts."""
        numbers = self.numbers()
        ids = [
            i for _, part in read_parts(self.folder, "cells") for i in part["cell_id"].to_pylist()
        ]
        return Counter(numbers[i] for i in ids)


def make_site(root: Path, arguments: Sequence[str] = TROUBLED) -> Site:
    (root / "troubled.py").write_bytes(SCHEME.read_bytes())
    return Site(root, tuple(arguments))


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen[str] | None = None
) -> None:
    """Wait until a condition is true; fail if the process ends first."""
    end = Deadline(PATIENCE)
    while not condition():
        assert end.remaining > 0, "the condition did not become true in time"
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the process ended first:\n{wait_for_output(process)}")
        time.sleep(0.01)


def wait_for_output(process: subprocess.Popen[str]) -> str:
    """Wait until a process and all its children have ended; return their output."""
    end = Deadline(PATIENCE)
    while True:
        try:
            return process.communicate(timeout=max(end.remaining, 0))[0]
        except subprocess.TimeoutExpired:
            if end.remaining <= 0:
                raise


def has_ended(pid: int) -> bool:
    return not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Return True if a process of this number runs on this machine; a zombie has ended."""
    return ProcessId(platform.node(), pid).is_running() is True
