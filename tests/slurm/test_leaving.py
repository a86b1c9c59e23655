"""Ctrl-C at a terminal asks whether to leave the jobs or to cancel them."""

from __future__ import annotations

import pytest
from beside import beside_others
from faulty import Faulty
from launching import PATIENCE
from terminal import CTRL_C, ENTER, Terminal

pytestmark = pytest.mark.slurm

CELLS = "init.number=range(4)"  # in two packs, a job each
ASKS = "1 job under way on Slurm. [L]eave it to itself, or [c]ancel? "


def asked(faulty: Faulty) -> Terminal:
    """The command, asking after Ctrl-C: of two jobs one has ended, one is at its first cell."""
    faulty.tell("deaf", 2)
    terminal = faulty.at_terminal(CELLS)
    faulty.until(lambda: len(faulty.rows()) == 2 and faulty.count("steps", 2))
    faulty.until(lambda: len(faulty.jobs()) == len(list(faulty.folder.journals.iterdir())) == 1)
    terminal.type(CTRL_C)
    faulty.until(lambda: ASKS in terminal.said)
    return terminal


def ended(terminal: Terminal) -> str:
    """What an interrupted command has said."""
    assert terminal.end(PATIENCE) == 130, terminal.said
    said = " ".join(terminal.said.split())
    assert "Traceback" not in said
    assert "Interrupted: 2 of 4 cells are done and kept" in said
    return said


def assert_left(faulty: Faulty, terminal: Terminal) -> None:
    """The job goes on, and the same command waits for it: each cell has run once."""
    said = ended(terminal)
    (job,) = faulty.jobs()
    assert f"1 job under way on Slurm: {job.partition('_')[0]}. The same command waits" in said
    again = faulty.start(CELLS)
    faulty.until(faulty.folder.launcher.exists)
    faulty.forget(2)
    said = faulty.end(again)
    assert again.returncode == 0, said
    assert faulty.attempts() == {number: ["ok"] for number in range(4)}
    assert len(faulty.arrays()) == 1
    assert set(faulty.runs().values()) == {1}
    assert not faulty.left_over()


@beside_others
def test_who_leaves_the_jobs_finds_them_again(faulty: Faulty) -> None:
    terminal = asked(faulty)
    terminal.type(f"l{ENTER}")
    assert_left(faulty, terminal)


@beside_others
def test_ctrl_c_at_the_question_leaves_the_jobs(faulty: Faulty) -> None:
    terminal = asked(faulty)
    terminal.type(CTRL_C)
    assert_left(faulty, terminal)


@beside_others
def test_who_cancels_the_jobs_keeps_what_they_have_finished(faulty: Faulty) -> None:
    terminal = asked(faulty)
    terminal.type(f"c{ENTER}")
    assert "under way on Slurm:" not in ended(terminal)
    assert not faulty.active()
    assert not list(faulty.folder.journals.iterdir())
    assert faulty.attempts() == {0: ["ok"], 1: ["ok"], 2: ["cancelled"], 3: []}
    faulty.forget(2)
    status, said = faulty.run(CELLS)
    assert status == 0, said
    assert faulty.attempts() == {0: ["ok"], 1: ["ok"], 2: ["cancelled", "ok"], 3: ["ok"]}
    assert len(faulty.arrays()) == 2
    assert not faulty.left_over()
