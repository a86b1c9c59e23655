"""Two processes that write one sweep: one launcher runs it; a worker without its journal stops."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from fault_rows import Record, describe_end, fault, rerun, run_inline
from sweep_process import PATIENCE, Site, has_ended, is_alive, wait_until

from analysis import load

ROUNDS = 2


def _launch(site: Site, arguments: tuple[str, ...], start: Any, output: Path) -> None:
    start.wait()
    with output.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        status = run_inline(site, *arguments)
    sys.exit(status)


def test_only_one_of_two_simultaneous_launchers_runs(faulty: Site, record: Record) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(ROUNDS):
        faulty.write_file(f"step-{number}", "hold")  # so that it runs until the other has given up
        arguments = (f"init.number=range({number + 1})",)
        start = context.Barrier(2)
        output = [faulty.root / f"said-{index}" for index in range(2)]
        launchers = [
            context.Process(target=_launch, args=(faulty, arguments, start, s)) for s in output
        ]
        for process in launchers:
            process.start()
        wait_until(
            lambda launchers=launchers: any(process.exitcode is not None for process in launchers)
        )
        loser = next(index for index in range(2) if launchers[index].exitcode is not None)
        assert launchers[loser].exitcode == 2, output[loser].read_text()
        assert (
            f"process {launchers[1 - loser].pid} is running this sweep" in output[loser].read_text()
        )
        assert output[loser].read_text().count("\n") == 1
        faulty.remove_files("step-*")
        launchers[1 - loser].join(PATIENCE)
        assert launchers[1 - loser].exitcode == 0, output[1 - loser].read_text()
    second_run = rerun(faulty, *arguments, cells=ROUNDS)
    assert set(load("s", faulty.root).cells["attempt"]) == {1}
    first_run = "one runs; the other: exit 2, and the error names the running process"
    record(fault("two launchers of one sweep at the same moment"), first_run, second_run)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers always outlive a launcher")
def test_worker_that_outlives_its_launcher_writes_no_table(faulty: Site, record: Record) -> None:
    faulty.write_file(
        "sitecustomize.py",  # workers without the signal that ends them with their launcher
        "import sys\n"
        "if 'multiprocessing.forkserver' in ' '.join(sys.orig_argv):\n"
        "    import experiments.sweep.worker.parent_death as p\n"
        "    p.PR_SET_PDEATHSIG = 0\n",
    )
    faulty.write_file("step-2", "hold")
    arguments = ("init.number=range(6)", "runner.workers=1", "runner.pack_cells=6")
    sweep = faulty.start(*arguments)
    wait_until(lambda: (faulty.root / "at-2").exists(), sweep)
    orphan = int((faulty.root / "at-2").read_text())
    sweep.kill()
    sweep.wait(PATIENCE)
    assert is_alive(orphan)
    os.kill(orphan, signal.SIGSTOP)
    faulty.remove_files("step-2")

    second_run = rerun(faulty, *arguments, cells=6)
    cells = load("s", faulty.root).cells.set_index("init.number").sort_index()
    assert list(cells["attempt"]) == [1, 1, 2, 1, 1, 1]
    before = {path: path.read_bytes() for path in faulty.folder.root.rglob("*") if path.is_file()}
    os.kill(orphan, signal.SIGCONT)
    wait_until(lambda: has_ended(orphan))
    after = {path: path.read_bytes() for path in faulty.folder.root.rglob("*") if path.is_file()}
    assert after == before
    assert describe_end(faulty, 0) == "exit 0; 6 ok"
    first_run = "the next launch takes over its journal; the worker ends without writing a table"
    record(
        fault("a worker that keeps running after its launcher was killed"), first_run, second_run
    )
