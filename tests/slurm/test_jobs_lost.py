"""Jobs that end without having done what they were to do."""

from __future__ import annotations

import shlex
import sys

import pytest
from beside import beside_others
from faulty import Faulty, assert_same_tables, undisturbed

pytestmark = pytest.mark.slurm

# Leaves a job's process by os._exit(0) as soon as its folder's file `leave` is there, once.
LEAVING = """\
#!{python}
import os, runpy, sys, threading, time
def leave():
    while True:
        time.sleep(0.05)
        try:
            os.unlink({leave!r})
        except FileNotFoundError:
            continue
        os._exit(0)
if __name__ == "__main__":
    threading.Thread(target=leave, daemon=True).start()
    sys.argv = sys.argv[3:]  # less -u -m
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@beside_others
def test_what_befalls_workers_costs_the_cell_they_are_at(faulty: Faulty) -> None:
    for number, kind in enumerate(["segfault", "vanish", "leave", "kill"]):
        faulty.tell(kind, number)
    status, said = faulty.run("init.number=range(8)", "runner.pack_cells=4")
    assert status == 1
    assert faulty.attempts() == {n: ["killed"] if n < 4 else ["ok"] for n in range(8)}
    reasons = [str(faulty.history()[number][0].reason) for number in range(4)]
    for reason, word in zip(
        reasons, ("SIGSEGV", "os._exit(0)", "exit code 3", "SIGKILL"), strict=True
    ):
        assert word in reason
        assert word in said
    assert set(faulty.runs().values()) == {1}
    assert_same_tables(faulty.root, undisturbed(faulty), [4, 5, 6, 7])
    assert not faulty.left_over()


@beside_others
def test_a_killed_jobs_cells_run_again_but_not_for_ever(faulty: Faulty) -> None:
    faulty.tell("kill element", 0, word="once")
    faulty.tell("kill element", 2)
    status, said = faulty.run("init.number=range(4)", "runner.attempts=2")
    assert status == 1
    rows = faulty.attempts()
    assert rows == {0: ["killed", "ok"], 1: ["ok"], 2: ["killed", "killed"], 3: ["ok"]}
    assert "SIGKILL" in str(faulty.history()[0][0].reason)
    assert "signal SIGKILL" in said
    assert_same_tables(faulty.root, undisturbed(faulty), [0, 1, 3])
    assert not faulty.left_over()


@beside_others
def test_a_job_that_says_it_is_done_is_not_believed(faulty: Faulty) -> None:
    program = faulty.root / "python"
    program.write_text(LEAVING.format(python=sys.executable, leave=str(faulty.root / "leave")))
    program.chmod(0o755)
    faulty.tell("deaf", 1)
    python = f"runner.slurm.python={shlex.quote(str(program))}"
    sweep = faulty.start("init.number=range(3)", "runner.pack_cells=3", python)
    faulty.until(lambda: faulty.count("steps", 1) == 1)
    (faulty.root / "leave").touch()
    faulty.until(lambda: faulty.count("steps", 1) == 2)
    faulty.forget(1)
    said = faulty.end(sweep)
    assert sweep.returncode == 0, said
    assert faulty.attempts() == {0: ["ok"], 1: ["killed", "ok"], 2: ["ok"]}
    assert "left without a word" in str(faulty.history()[1][0].reason)
    assert [faulty.count("drawn", number) for number in range(3)] == [1, 2, 1]
    assert_same_tables(faulty.root, undisturbed(faulty), [0, 1, 2])
    assert not faulty.left_over()


@beside_others
def test_of_cells_that_shared_a_jobs_memory_each_runs_again_alone(faulty: Faulty) -> None:
    faulty.tell("deaf", 0, 1)
    both = ("runner.pack_cells=1", "runner.target_minutes=60", "runner.slurm.cpus=2")
    sweep = faulty.start("init.number=range(2)", *both, "runner.slurm.mem_gb=3.5")
    faulty.until(lambda: faulty.count("steps", 0) == 1 and faulty.count("steps", 1) == 1)
    assert len(faulty.jobs()) == 1
    faulty.tell("swell", 1)
    faulty.until(lambda: faulty.attempts()[1] == ["killed", "oom"])
    faulty.forget(0)  # which has not been lost with it again
    said = faulty.end(sweep)
    assert sweep.returncode == 1, said
    assert faulty.attempts() == {0: ["killed", "ok"], 1: ["killed", "oom"]}
    assert "more memory than it had asked for" in said
    assert_same_tables(faulty.root, undisturbed(faulty), [0])
    assert not faulty.left_over()


@beside_others
def test_jobs_that_die_before_a_cell_begins_are_not_tried_for_ever(faulty: Faulty) -> None:
    fails = "runner.slurm.setup=['echo no such module >&2; exit 3']"
    status, said = faulty.run("init.number=range(6)", fails)
    assert status == 2
    assert "died 3 times before they began a cell" in said
    assert "it said: no such module" in " ".join(said.split())
    assert faulty.history() == {number: [] for number in range(6)}
    assert not faulty.left_over()
