"""Handing a job array to Slurm, once, whoever dies or does not answer meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

from experiments.sweep.slurm.calls import SlurmAway, SlurmUnaccounted, call
from experiments.sweep.slurm.queue import ended, waiting
from experiments.sweep.slurm.submission import Submission

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two tries
PATIENCE = 1800.0  # seconds for which a controller that doesn't answer is asked again
BEAT = 0.5  # seconds

Beat = Callable[[], None]


def submit(submission: Submission, beat: Beat, patience: float = PATIENCE) -> None:
    """Submit an array, unless that has been done already, and keep its number.

    A controller that doesn't answer is asked again; it may have taken the job all the same, so each
    time the queue is searched first.

    Parameters
    ----------
    submission
        Written down, and not known to be submitted.
    beat
        Called now and then.
    patience
        Seconds for which to ask again.

    Raises
    ------
    SlurmAway
        Nobody answered for all that time.
    SlurmFull
        The user may have no more jobs at once.
    SlurmError
        Slurm refuses such a job.
    """
    wait, until = FIRST_WAIT, time.monotonic() + patience
    while True:
        try:
            submission.submitted(find(submission) or _sbatch(submission))
            return
        except SlurmAway:
            if time.monotonic() + wait > until:
                raise
        pause(wait, beat)
        wait = min(2 * wait, LONGEST_WAIT)


def find(submission: Submission) -> str | None:
    """The number of the array that a submission became; None where it became none.

    Raises
    ------
    SlurmError
        As `call`: whether there is one can't be known.
    """
    for element in waiting([submission.job_name]).values():
        return element.job
    try:
        for runs in ended([submission.job_name], submission.since).values():
            return runs[-1].job
    except SlurmUnaccounted:  # what has run has left its traces
        pass
    rights = [submission.right(index) for index in range(submission.size)]
    if any(not right.is_dir() or any(right.iterdir()) for right in rights):
        return "unknown"
    return None


def _sbatch(submission: Submission) -> str:
    said = call("sbatch", "--parsable", str(submission.script))
    return said.strip().splitlines()[-1].partition(";")[0]


def pause(seconds: float, beat: Beat) -> None:
    """Wait, calling `beat` now and then."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        beat()
        time.sleep(min(left, BEAT))
