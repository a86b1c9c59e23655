"""Real sweeps in real processes, whose cells fail or wait where a test says so (`troubled`)."""

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
    """A folder with files that tell the troubled scheme what to do, and results there or elsewhere.

    `words` make the cells; a command says them first.
    """

    root: Path
    words: tuple[str, ...] = tuple(TROUBLED)
    elsewhere: Path | None = None

    @property
    def results(self) -> Path:
        return self.elsewhere or self.root

    @property
    def folder(self) -> SweepFolder:
        return SweepFolder(self.results / "s")

    def overrides(self, *more: str) -> list[str]:
        return [*self.words, f"sweep.results={self.results}", *more]

    def tell(self, what: str, content: str = "") -> None:
        (self.root / what).write_text(content)

    def forget(self, *patterns: str) -> None:
        for pattern in patterns:
            for path in self.root.glob(pattern):
                path.unlink()

    def runs(self, number: int) -> int:
        """How often the scheme was asked for the cell of that number's weights."""
        path = self.root / f"ran-{number}"
        return len(path.read_text()) if path.exists() else 0

    def start(self, *more: str) -> subprocess.Popen[str]:
        """`python -m experiments.run -m ...`, leader of a process group of its own."""
        words = [sys.executable, "-m", "experiments.run", "-m", *self.overrides(*more)]
        path = os.pathsep.join([str(self.root), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            words,
            cwd=self.root,
            env=os.environ | {"TROUBLED": str(self.root), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def held(self) -> dict[int, int]:
        """The worker that waits in each held cell, by the cell's number."""
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
        """The troubled scheme's number of each planned cell."""
        lines = self.folder.plan.read_text().splitlines()
        planned = [json.loads(line) for line in lines]
        return {line["cell_id"]: line["config"]["init"]["number"] for line in planned}

    def rows(self) -> Counter[int]:
        """How many rows, of all attempts, the cell of each number has."""
        numbers = self.numbers()
        ids = [
            i for _, part in read_parts(self.folder, "cells") for i in part["cell_id"].to_pylist()
        ]
        return Counter(numbers[i] for i in ids)


def site(root: Path, words: Sequence[str] = TROUBLED) -> Site:
    (root / "troubled.py").write_bytes(SCHEME.read_bytes())
    return Site(root, tuple(words))


def until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for something to come true, not longer than the process lives."""
    end = Deadline(PATIENCE)
    while not condition():
        assert end.left > 0, "waited in vain"
        if process is not None and process.poll() is not None:
            raise AssertionError(f"it ended first:\n{finish(process)}")
        time.sleep(0.01)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a process, and of all that can write to its output; what it printed."""
    end = Deadline(PATIENCE)
    while True:
        try:
            return process.communicate(timeout=max(end.left, 0))[0]
        except subprocess.TimeoutExpired:
            if end.left <= 0:
                raise


def gone(pid: int) -> bool:
    return not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Return True if a process of this number runs on this machine; a zombie has ended."""
    return ProcessId(platform.node(), pid).is_running() is True
