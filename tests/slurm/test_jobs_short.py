"""Jobs whose time is too short for what they have to do."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from beside import beside_others
from faulty import Faulty, assert_same_tables, undisturbed

pytestmark = pytest.mark.slurm


def tell_its_end(faulty: Faulty) -> None:
    """What Slurm sends a while before a job's time is up (`--signal`), sent now."""
    (job,) = faulty.jobs()
    faulty.cluster.sh(f"scancel --signal=USR2 {job}")


def puts_notice_off(pid: int) -> bool:
    """Whether a process lets SIGUSR2 wait: within a moment of its start, and until it works."""
    path = Path(f"/proc/{pid}/status")
    status = path.read_text() if path.exists() else ""
    blocked = [int(line.split()[1], 16) for line in status.splitlines() if "SigBlk" in line]
    return any(mask >> (signal.SIGUSR2 - 1) & 1 for mask in blocked)


@beside_others
def test_at_its_time_limit_a_job_requeues_itself(faulty: Faulty) -> None:
    faulty.tell("slow", 1)
    short = ("runner.slurm.time_minutes=1", "runner.slurm.signal_seconds=45")
    sweep = faulty.start("init.number=range(3)", "runner.pack_cells=3", *short)
    faulty.until(lambda: faulty.count("drawn", 1) >= 2)
    faulty.forget(1)
    said = faulty.end(sweep)
    assert sweep.returncode == 0, said
    assert len(faulty.arrays()) == 1
    # Slurm is early with its notice at times, and it may come to the second run too.
    (runs,) = faulty.runs().values()
    assert runs >= 2
    assert faulty.attempts() == {number: ["ok"] for number in range(3)}
    # The last cell began in a later run; the notice may have come as early as in the first cell.
    assert 1 <= faulty.count("drawn", 0) <= runs
    assert 1 <= faulty.count("drawn", 2) < runs
    # No step that was done before a notice is done again.
    assert len({faulty.count("steps", number) for number in range(3)}) == 1
    assert_same_tables(faulty.root, undisturbed(faulty), [0, 1, 2])
    assert not faulty.left_over()


@beside_others
def test_notice_before_a_job_begins_and_in_code_that_catches_everything(faulty: Faulty) -> None:
    faulty.tell("slow", 0)  # within `except BaseException`, as all that befalls a cell
    sweep = faulty.start("init.number=range(2)")
    faulty.until(lambda: any(puts_notice_off(pid) for pid in faulty.elements()))
    tell_its_end(faulty)  # while it loads what it needs
    faulty.until(lambda: faulty.count("steps", 0) > 2)
    tell_its_end(faulty)
    faulty.until(lambda: faulty.count("drawn", 0) == 2)
    faulty.forget(0)
    said = faulty.end(sweep)
    assert sweep.returncode == 0, said
    assert set(faulty.runs().values()) == {3}
    assert faulty.attempts() == {0: ["ok"], 1: ["ok"]}
    assert faulty.count("caught", 0) == 0
    assert_same_tables(faulty.root, undisturbed(faulty), [0, 1])
    assert not faulty.left_over()


@beside_others
def test_a_cell_that_no_job_has_time_for_ends(faulty: Faulty) -> None:
    faulty.tell("deaf", 1)
    sweep = faulty.start(
        "init.number=range(3)", "runner.pack_cells=3", "runner.slurm.signal_seconds=2"
    )
    for turn in (1, 2, 3, 4):  # the first gets somewhere: it ends another cell
        faulty.until(lambda turn=turn: faulty.count("steps", 1) == turn)
        tell_its_end(faulty)
    said = faulty.end(sweep)
    assert sweep.returncode == 1, said
    assert "runner.slurm.time_minutes" in said
    rows = faulty.attempts()
    assert (rows[0], rows[2]) == (["ok"], ["ok"])
    assert rows[1] == ["killed", "killed", "killed", "timeout"]
    assert "too short for it" in str(faulty.history()[1][-1].reason)
    assert_same_tables(faulty.root, undisturbed(faulty), [0, 2])
    assert len(faulty.arrays()) == 1
    assert not faulty.left_over()
