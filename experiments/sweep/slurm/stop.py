"""What a job does that was told to end: go on in another run of itself, if that gets anywhere."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from experiments.sweep.slurm import calls
from experiments.sweep.slurm.left import left_of
from experiments.sweep.slurm.submission import Submission
from experiments.sweep.slurm.turn import end_turn
from experiments.sweep.store.journal import journals_in
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import read_states
from experiments.sweep.types import Pack
from experiments.sweep.worker.finalize import finalize_journal
from experiments.training.checkpoint import saved_progress

FRUITLESS = 3  # turns in a row that get nowhere, after which a cell is given up
OVER = 75  # exit status of a job that was stopped and does not go on (sysexits.h)
SHORT = "its jobs are too short for it (runner.slurm.time_minutes)"

Standing = Mapping[str, tuple[int, int]]  # by cell, how far it is


def standing(folder: SweepFolder, packs: Sequence[Pack]) -> Standing:
    """How far the cells are that have not ended."""
    cells = [task.cell_id for pack in packs for task in pack.cells]
    return {cell: saved_progress(folder.checkpoints / f"{cell}.pt") for cell in cells}


def stop(
    submission: Submission,
    index: int,
    turn: Path,
    packs: Sequence[Pack],
    before: Standing,
    came: signal.Signals,
) -> int:
    """End a turn that was told to end; the exit status.

    Parameters
    ----------
    submission, index
        The element.
    turn
        The turn's folder; its workers have ended.
    packs
        What was to be done in this turn.
    before
        How far that was when the turn began.
    came
        What told it.
    """
    folder, attempts = submission.folder, submission.duty.attempts
    left = left_of(packs, read_states(folder), attempts)
    now = standing(folder, left)
    moved = len(now) < len(before) or any(now[cell] > before[cell] for cell in now)
    idle = _count(submission.path / f"idle-{index}", moved)
    if idle >= FRUITLESS:
        if not _give_up(folder, turn, packs, idle):
            print(f"stopped {idle} times before any cell had begun: {SHORT}", file=sys.stderr)
            return OVER
        left = left_of(packs, read_states(folder), attempts)
    if not left:
        return end_turn(turn)
    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{index}"
    try:
        if came is not signal.SIGUSR2 and not _goes_on(job):
            return OVER
        calls.call("scontrol", "requeue", job)
    except calls.SlurmError as error:
        print(f"{error}; the sweep's launcher submits the rest anew", file=sys.stderr)
        return OVER
    print(f"requeued {job}: {sum(len(pack.cells) for pack in left)} cells are left", flush=True)
    time.sleep(60)  # until Slurm ends it: an end of its own would count as the job's
    return OVER


def got_somewhere(submission: Submission, index: int) -> bool:
    """Whether an element's last turn that was told to end had got somewhere, as far as is known."""
    with suppress(OSError):
        return (submission.path / f"idle-{index}").read_text() == "0"
    return False


def _goes_on(job: str) -> bool:
    """Whether Slurm takes a job to be running: one that was preempted, and has a while yet.

    Else it has been cancelled, requeued, or its time is up: then it has ended for Slurm.
    """
    return "RUNNING" in calls.call("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")


def _count(note: Path, moved: bool) -> int:
    """Count the turns in a row that got nowhere."""
    count = 0
    with suppress(OSError, ValueError):
        count = int(note.read_text())
    count = 0 if moved else count + 1
    note.write_text(str(count))
    return count


def _give_up(folder: SweepFolder, turn: Path, packs: Sequence[Pack], count: int) -> bool:
    """Cells that no job has time for end, so that others get their turn; False: none was at work.

    Workers that got to the end of a step have ended well: those that did not have left journals.
    """
    tasks = {task.cell_id: task for pack in packs for task in pack.cells}
    reason = f"stopped {count} times before it got anywhere: {SHORT}"
    found = [
        finalize_journal(folder, journal, tasks, "timeout", reason, fail_all=True)
        for journal in journals_in(turn).values()
    ]
    return any(each is not None and each.failed for each in found)
