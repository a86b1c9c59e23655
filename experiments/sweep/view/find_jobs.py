"""How a sweep's jobs are, by Slurm's queue where it answers, else by the sweep's files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from experiments.sweep.slurm.queue import Waiting
from experiments.sweep.slurm.submission import Submission
from experiments.sweep.store.journal import TAKEN
from experiments.sweep.view.enquiry import Answer
from experiments.sweep.view.jobs import JobArray, Jobs, Wait

WAITS = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")


def jobs_of(submissions: Sequence[Submission], answer: Answer) -> Jobs | None:
    """How a sweep's jobs are; None where it has none."""
    arrays = []
    at_work: set[str] = set()
    rights = _rights(submissions)
    for submission in sorted(submissions, key=lambda each: (each.since, each.token)):
        left = [i for i in range(submission.size) if submission.right(i).name in rights]
        if not left:
            continue
        if answer.elements is None or submission.job_name not in answer.names:
            arrays.append(_from_files(submission, left))
            at_work |= {submission.right(i).name for i in left}
            continue
        there = {i: e for i in left if (e := answer.elements.get((submission.job_name, i)))}
        arrays.append(_from_slurm(submission, left, there))
        at_work |= {submission.right(i).name for i, e in there.items() if e.state not in WAITS}
    if not arrays:
        return None
    return Jobs(tuple(arrays), None if answer.elements is None else frozenset(at_work), answer.note)


def _rights(submissions: Sequence[Submission]) -> set[str]:
    """The folders of elements that have not ended: one listing, where there may be thousands."""
    with suppress(IndexError, FileNotFoundError):
        return set(os.listdir(submissions[0].folder.journals))
    return set()


def _from_slurm(
    submission: Submission, left: Sequence[int], there: Mapping[int, Waiting]
) -> JobArray:
    pending = {i: each for i, each in there.items() if each.state in WAITS}
    run = [each for i, each in there.items() if i not in pending]
    queued = [each for each in pending.values() if not each.held]
    starts = [when for each in queued if (when := _time(each.start)) is not None]
    reasons = Counter(each.reason for each in queued)
    return JobArray(
        submission.token,
        submission.job_name,
        next((each.job for each in there.values()), submission.job_id()),
        len(left),
        len(run),
        tuple(sorted({each.node for each in run if each.node})),
        tuple(Wait(count, reason) for reason, count in reasons.most_common()),
        {i: each.reason for i, each in pending.items() if each.held},
        min(starts, default=None),
        sum(each.restarts for each in there.values()),
        len(left) - len(there) if submission.job_id() is not None else 0,
    )


def _from_files(submission: Submission, left: Sequence[int]) -> JobArray:
    begun = sum(_has_begun(submission, index) for index in left)
    waits = (Wait(len(left) - begun, ""),) if len(left) > begun else ()
    return JobArray(
        submission.token, submission.job_name, submission.job_id(), len(left), begun, waits=waits
    )


def _has_begun(submission: Submission, index: int) -> bool:
    """Whether an element has a turn that is not over."""
    with suppress(OSError):
        turns = submission.right(index).iterdir()
        return any(not turn.name.endswith(TAKEN) for turn in turns)
    return False


def _time(said: str) -> datetime | None:
    try:
        return datetime.fromisoformat(said)
    except ValueError:  # N/A
        return None
