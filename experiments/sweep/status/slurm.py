"""A sweep's Slurm jobs: from squeue where it answers, else from the sweep's own files."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from experiments.sweep.slurm.commands import Key, SlurmError, Waiting, waiting
from experiments.sweep.slurm.submission import Submission
from experiments.sweep.store.journal import TAKEN

WAITS = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
EVERY = 5.0  # seconds between two questions
SHARE = 0.05  # of the time, that may be spent on answers: where those are slow, they are few
PATIENCE = 5.0  # seconds after which nobody waits for an answer any more
SILENT = "Slurm doesn't answer; this is from the files"


@dataclass(frozen=True)
class Wait:
    """So many elements wait for one reason, in Slurm's word."""

    count: int
    reason: str


@dataclass(frozen=True)
class JobArray:
    """One submission.

    Attributes
    ----------
    job_id
        The array's number; None where it has none yet.
    left
        How many of its elements have cells that have not ended; what follows is of these.
    running, nodes
        How many run, and where. From the files alone: how many have begun.
    waits
        Those that wait, without those that are held. From the files alone: no reasons.
    held
        Places in the array of those that somebody must release, and Slurm's word for it.
    start
        When the first of those that wait is expected to begin; None where Slurm can't say.
    requeued
        How often they were started anew.
    absent
        How many Slurm has neither waiting nor running.
    """

    token: str
    name: str
    job_id: str | None
    left: int
    running: int
    nodes: tuple[str, ...] = ()
    waits: tuple[Wait, ...] = ()
    held: Mapping[int, str] = field(default_factory=dict)
    start: datetime | None = None
    requeued: int = 0
    absent: int = 0

    @property
    def waiting(self) -> int:
        """Number of elements that wait for their turn, and for nobody."""
        return sum(wait.count for wait in self.waits)

    @property
    def release(self) -> str | None:
        """The command that frees those that are held; None if none is."""
        if not self.held:
            return None
        if len(self.held) == self.left:
            return f"scontrol release {self.job_id}"
        if len(self.held) == 1:
            return f"scontrol release {self.job_id}_{min(self.held)}"
        return f"scontrol release '{self.job_id}_[{ranges(self.held)}]'"


@dataclass(frozen=True)
class Jobs:
    """All submissions of a sweep that have elements left.

    Attributes
    ----------
    at_work
        The elements that run, each by the folder of its journals; None where Slurm has not said.
    note
        Where this comes from, if not from Slurm.
    """

    arrays: tuple[JobArray, ...]
    at_work: frozenset[str] | None = None
    note: str | None = None

    def total(self, what: str) -> int:
        """The sum over all arrays of `running`, `waiting`, `left`, `requeued` or `absent`."""
        return sum(getattr(array, what) for array in self.arrays)

    @property
    def held(self) -> int:
        """Number of elements that somebody must release."""
        return sum(len(array.held) for array in self.arrays)

    @property
    def under_way(self) -> bool:
        """True if any waits or runs, as far as is known."""
        return self.total("left") > self.total("absent")


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as Slurm writes them.

    Examples
    --------
    >>> ranges([7, 1, 2, 3])
    '1-3,7'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] + 1 == number:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def jobs_of(submissions: Sequence[Submission], answer: Answer) -> Jobs | None:
    """Return the state of a sweep's jobs; None where it has none."""
    arrays = []
    at_work: set[str] = set()
    rights = _rights(submissions)
    for submission in sorted(submissions, key=lambda each: (each.since, each.token)):
        left = [i for i in range(submission.size) if submission.lease_dir(i).name in rights]
        if not left:
            continue
        if answer.elements is None or submission.job_name not in answer.names:
            arrays.append(_from_files(submission, left))
            at_work |= {submission.lease_dir(i).name for i in left}
            continue
        there = {i: e for i in left if (e := answer.elements.get((submission.job_name, i)))}
        arrays.append(_from_slurm(submission, left, there))
        at_work |= {submission.lease_dir(i).name for i, e in there.items() if e.state not in WAITS}
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
    """Return True if an element has a turn that is not over."""
    with suppress(OSError):
        turns = submission.lease_dir(index).iterdir()
        return any(not turn.name.endswith(TAKEN) for turn in turns)
    return False


def _time(said: str) -> datetime | None:
    try:
        return datetime.fromisoformat(said)
    except ValueError:  # N/A
        return None


@dataclass(frozen=True)
class Answer:
    """Answer of Slurm about some jobs.

    Attributes
    ----------
    elements
        Those that wait or run; None where it has not said.
    names
        The jobs that it was asked about.
    note
        Why it has not said, for people.
    """

    elements: Mapping[Key, Waiting] | None = None
    names: frozenset[str] = frozenset()
    note: str | None = None


class SlurmPoller:
    """Asks squeue now and then, in a thread of its own.

    Parameters
    ----------
    waits
        Whether the first look waits for an answer.
    """

    def __init__(self, waits: bool = True) -> None:
        self._waits = waits
        self._answer = Answer()
        self._asked = self._due = 0.0
        self._thread: threading.Thread | None = None

    def look(self, names: Collection[str]) -> Answer:
        """The latest answer, some seconds old at most."""
        if not names:
            return Answer()
        if shutil.which("squeue") is None:
            return Answer(note="there is no squeue on this host; this is from the files")
        if self._thread is None:
            thread = self._start(names)
            if self._waits:
                thread.join(PATIENCE)
        elif not self._thread.is_alive() and time.monotonic() >= self._due:
            thread = self._start(names)
        else:
            thread = self._thread
        late = thread.is_alive() and time.monotonic() - self._asked >= PATIENCE
        return Answer(note=SILENT) if late else self._answer

    def _start(self, names: Collection[str]) -> threading.Thread:
        self._asked = time.monotonic()
        # Nobody waits for it at the process's end.
        self._thread = threading.Thread(target=self._ask, args=[frozenset(names)], daemon=True)
        self._thread.start()
        return self._thread

    def _ask(self, names: frozenset[str]) -> None:
        try:
            self._answer = Answer(waiting(names), names)
            took = time.monotonic() - self._asked
            self._due = self._asked + max(EVERY, took / SHARE)
        except SlurmError as error:
            self._answer = Answer(note=f"{SILENT} ({error})")
            self._due = time.monotonic() + EVERY
