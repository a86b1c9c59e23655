"""Time limits of cells, with a fake clock and real journals and processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.sweep.runners.watch import PackWatch

SLEEPER = """
import sys, time
from pathlib import Path
from experiments.sweep.store.journal import Journal
journal = Journal(Path(sys.argv[1]))
print(flush=True)
for line in sys.stdin:
    kind, *arguments = line.split()
    getattr(journal, kind)(*(int(w) if w.isdecimal() else w for w in arguments))
    print(flush=True)
"""


class Worker:
    """A process that writes the lines it is sent to a journal."""

    def __init__(self, journal: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SLEEPER, str(journal)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "\n"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("experiments.sweep.runners.watch.time", type("", (), {
        "monotonic": staticmethod(lambda: now[0]), "sleep": time.sleep,
    }))  # fmt: skip
    return now


@pytest.fixture
def worker(tmp_path: Path):
    worker = Worker(tmp_path / "p.journal")
    yield worker
    worker.process.kill()
    worker.process.communicate()


def test_time_limit_starts_when_the_data_is_loaded(
    worker: Worker, clock: list[float], tmp_path: Path
) -> None:
    watch = PackWatch(tmp_path / "p.journal", cell_seconds=10)
    worker.send("start x 1")
    watch.poll()
    clock[0] += 9  # loading the data
    worker.send("progress x 0 100")
    watch.poll()
    clock[0] += 9
    worker.send("progress x 50 100")  # progress does not extend the limit
    watch.poll()
    assert not watch.timed_out
    clock[0] += 2
    watch.poll()
    assert watch.timed_out
    assert worker.process.wait() == -9


def test_stacked_cells_share_the_sum_of_their_limits(
    worker: Worker, clock: list[float], tmp_path: Path
) -> None:
    watch = PackWatch(tmp_path / "p.journal", cell_seconds=10)
    for cell in "xyz":
        worker.send(f"start {cell} 1")
    watch.poll()
    clock[0] += 29
    watch.poll()
    assert not watch.timed_out
    clock[0] += 2
    watch.poll()
    assert worker.process.wait() == -9
