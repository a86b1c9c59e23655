"""Two that would write the same sweep: one launcher runs it, and who lost the right publishes
nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from fault_rows import Record, again_here, ended, fault, run_here
from sweep_process import PATIENCE, Site, gone, is_alive, until

from analysis import load

ROUNDS = 2


def _launch(here: Site, words: tuple[str, ...], ready: Any, said: Path) -> None:
    ready.wait()
    with said.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        status = run_here(here, *words)
    sys.exit(status)


def test_of_two_launchers_at_the_same_moment_one_runs(faulty: Site, record: Record) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(ROUNDS):
        faulty.tell(f"step-{number}", "hold")  # so that it runs until the other has given up
        words = (f"init.number=range({number + 1})",)
        ready = context.Barrier(2)
        said = [faulty.root / f"said-{who}" for who in range(2)]
        both = [context.Process(target=_launch, args=(faulty, words, ready, s)) for s in said]
        for process in both:
            process.start()
        until(lambda both=both: any(process.exitcode is not None for process in both))
        loser = next(who for who in range(2) if both[who].exitcode is not None)
        assert both[loser].exitcode == 2, said[loser].read_text()
        assert f"process {both[1 - loser].pid} is running this sweep" in said[loser].read_text()
        assert said[loser].read_text().count("\n") == 1
        faulty.forget("step-*")
        both[1 - loser].join(PATIENCE)
        assert both[1 - loser].exitcode == 0, said[1 - loser].read_text()
    next_ = again_here(faulty, *words, cells=ROUNDS)
    assert set(load("s", faulty.root).cells["attempt"]) == {1}
    happened = "one runs; the other: exit 2, and a line that says which process does"
    record(fault("two launchers of one sweep at the same moment"), happened, next_)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers always outlive a launcher")
def test_a_worker_that_outlives_its_launcher_publishes_nothing(
    faulty: Site, record: Record
) -> None:
    faulty.tell(
        "sitecustomize.py",  # workers without the signal that ends them with their launcher
        "import sys\n"
        "if 'multiprocessing.forkserver' in ' '.join(sys.orig_argv):\n"
        "    import experiments.sweep.worker.limits\n"
        "    experiments.sweep.worker.limits.PR_SET_PDEATHSIG = 0\n",
    )
    faulty.tell("step-2", "hold")
    words = ("init.number=range(6)", "runner.workers=1", "runner.pack_cells=6")
    sweep = faulty.start(*words)
    until(lambda: (faulty.root / "at-2").exists(), sweep)
    orphan = int((faulty.root / "at-2").read_text())
    sweep.kill()
    sweep.wait(PATIENCE)
    assert is_alive(orphan)
    os.kill(orphan, signal.SIGSTOP)
    faulty.forget("step-2")

    next_ = again_here(faulty, *words, cells=6)
    cells = load("s", faulty.root).cells.set_index("init.number").sort_index()
    assert list(cells["attempt"]) == [1, 1, 2, 1, 1, 1]
    before = {path: path.read_bytes() for path in faulty.folder.root.rglob("*") if path.is_file()}
    os.kill(orphan, signal.SIGCONT)
    until(lambda: gone(orphan))
    after = {path: path.read_bytes() for path in faulty.folder.root.rglob("*") if path.is_file()}
    assert after == before
    assert ended(faulty, 0) == "exit 0; 6 ok"
    happened = "its journal is taken from it by the next launch; it ends without writing a table"
    record(fault("a worker that outlives its launcher"), happened, next_)
