"""Taking shards back from their jobs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

from experiments.sweep.slurm.calls import SlurmAway, cancel
from experiments.sweep.slurm.queue import waiting
from experiments.sweep.slurm.submission import Submission, open_submissions
from experiments.sweep.slurm.submit import pause
from experiments.sweep.slurm.turn import retire, settle_lost, take_back
from experiments.sweep.store.paths import SweepFolder

CANCELLED = ("cancelled", "the sweep was cancelled")
LAST_WORDS = 30.0  # seconds that jobs have to keep what they are at


def bring_home(submission: Submission, index: int, outcome: str, reason: str) -> int | None:
    """Take an element's shard back and settle it; whatever still runs of it publishes nothing.

    Parameters
    ----------
    submission, index
        The element.
    outcome, reason
        Of its cells that were at work.

    Returns
    -------
    int or None
        How many of its cells were begun; None where all have ended.
    """
    taken = take_back(submission.right(index))
    if taken is None:
        return None
    retire(taken)
    shard = submission.shard(index)
    tasks = {task.cell_id: task for pack in shard for task in pack.cells}
    begun = settle_lost(submission.folder, taken, tasks, outcome, reason)
    shutil.rmtree(taken, ignore_errors=True)
    return begun


def withdraw(folder: SweepFolder, beat: Callable[[], None]) -> int:
    """Cancel all jobs of a sweep, and take their shards back.

    Returns
    -------
    int
        How many jobs that were.

    Raises
    ------
    SlurmError
        Slurm doesn't take the word; nothing has changed.
    """
    there = open_submissions(folder)
    names = [submission.job_name for submission in there]
    cancel(names)
    until = time.monotonic() + LAST_WORDS
    while time.monotonic() < until:
        try:
            if not waiting(names):
                break
        except SlurmAway:
            break
        pause(0.5, beat)
    count = 0
    for submission in there:
        for index in submission.open_elements():
            bring_home(submission, index, *CANCELLED)
            count += 1
    return count
