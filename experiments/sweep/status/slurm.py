"""A sweep's Slurm jobs, from squeue or, if it does not answer, from the sweep's own files."""

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

from experiments.sweep.slurm.commands import QueuedTask, SlurmError, TaskKey, squeue
from experiments.sweep.slurm.submission import Submission
from experiments.sweep.store.journal import TAKEN_SUFFIX

PENDING_STATES = (
    "PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD",
)  # fmt: skip
POLL_SECONDS = 5.0  # minimum time between two queries
POLL_SHARE = 0.05  # maximum fraction of the time spent on queries, which may be slow
ANSWER_TIMEOUT = 5.0  # seconds to wait for an answer
NO_ANSWER = "Slurm doesn't answer; showing the state from the sweep's files"


@dataclass(frozen=True)
class PendingTasks:
    """Number of tasks that are pending for one reason, as Slurm names it."""

    count: int
    reason: str


@dataclass(frozen=True)
class JobArray:
    """State of one submission.

    Attributes
    ----------
    job_id
        Job id of the array. None: not submitted yet.
    unfinished
        Number of tasks with unfinished cells; the following attributes are about these.
    running, nodes
        Number of running tasks and the names of their nodes. Without an answer of Slurm: number of
        tasks that have started.
    pending
        Pending tasks by reason, without held ones. Without an answer of Slurm: no reasons.
    held
        Slurm's reason for each held task, by array index.
    expected_start
        Earliest expected start of the pending tasks. None if Slurm does not know it.
    requeued
        Number of times that Slurm has requeued these tasks.
    missing
        Number of tasks that are neither pending nor running.
    """

    token: str
    name: str
    job_id: str | None
    unfinished: int
    running: int
    nodes: tuple[str, ...] = ()
    pending: tuple[PendingTasks, ...] = ()
    held: Mapping[int, str] = field(default_factory=dict)
    expected_start: datetime | None = None
    requeued: int = 0
    missing: int = 0

    @property
    def n_pending(self) -> int:
        """Number of pending tasks, without held ones."""
        return sum(tasks.count for tasks in self.pending)

    @property
    def release_command(self) -> str | None:
        """Command that releases the held tasks; None if no task is held."""
        if not self.held:
            return None
        if len(self.held) == self.unfinished:
            return f"scontrol release {self.job_id}"
        if len(self.held) == 1:
            return f"scontrol release {self.job_id}_{min(self.held)}"
        return f"scontrol release '{self.job_id}_[{format_indices(self.held)}]'"


@dataclass(frozen=True)
class Jobs:
    """State of all submissions of a sweep with unfinished tasks.

    Attributes
    ----------
    running_leases
        Names of the lease folders of running tasks. None: Slurm has not answered.
    note
        Reason why Slurm has not answered.
    """

    arrays: tuple[JobArray, ...]
    running_leases: frozenset[str] | None = None
    note: str | None = None

    def total(self, attribute: str) -> int:
        """Return the sum of an attribute of `JobArray` over all arrays."""
        return sum(getattr(array, attribute) for array in self.arrays)

    @property
    def n_held(self) -> int:
        """Number of held tasks."""
        return sum(len(array.held) for array in self.arrays)

    @property
    def active(self) -> bool:
        """True if any task is known or assumed to be pending or running."""
        return self.total("unfinished") > self.total("missing")


def format_indices(indices: Iterable[int]) -> str:
    """Format array indices as Slurm writes them.

    Examples
    --------
    >>> format_indices([7, 1, 2, 3])
    '1-3,7'
    """
    ranges: list[list[int]] = []
    for index in sorted(indices):
        if ranges and ranges[-1][-1] + 1 == index:
            ranges[-1].append(index)
        else:
            ranges.append([index])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in ranges)


def summarize_jobs(submissions: Sequence[Submission], answer: SlurmAnswer) -> Jobs | None:
    """Return the state of a sweep's jobs; None if it has no jobs."""
    arrays = []
    running: set[str] = set()
    leases = _existing_leases(submissions)
    for submission in sorted(submissions, key=lambda s: (s.since, s.token)):
        indices = [i for i in range(submission.size) if submission.lease_dir(i).name in leases]
        if not indices:
            continue
        if answer.tasks is None or submission.job_name not in answer.names:
            arrays.append(_array_from_files(submission, indices))
            running |= {submission.lease_dir(i).name for i in indices}
            continue
        tasks = {i: t for i in indices if (t := answer.tasks.get((submission.job_name, i)))}
        arrays.append(_array_from_slurm(submission, indices, tasks))
        running |= {
            submission.lease_dir(i).name
            for i, task in tasks.items()
            if task.state not in PENDING_STATES
        }
    if not arrays:
        return None
    return Jobs(tuple(arrays), None if answer.tasks is None else frozenset(running), answer.note)


def _existing_leases(submissions: Sequence[Submission]) -> set[str]:
    """Return the names of all lease folders, from one directory listing for thousands of tasks."""
    with suppress(IndexError, FileNotFoundError):
        return set(os.listdir(submissions[0].folder.journals))
    return set()


def _array_from_slurm(
    submission: Submission, indices: Sequence[int], tasks: Mapping[int, QueuedTask]
) -> JobArray:
    waiting = {i: task for i, task in tasks.items() if task.state in PENDING_STATES}
    running = [task for i, task in tasks.items() if i not in waiting]
    pending = [task for task in waiting.values() if not task.held]
    starts = [start for task in pending if (start := _parse_time(task.start)) is not None]
    reasons = Counter(task.reason for task in pending)
    return JobArray(
        submission.token,
        submission.job_name,
        next((task.job for task in tasks.values()), submission.job_id()),
        len(indices),
        len(running),
        tuple(sorted({task.node for task in running if task.node})),
        tuple(PendingTasks(count, reason) for reason, count in reasons.most_common()),
        {i: task.reason for i, task in waiting.items() if task.held},
        min(starts, default=None),
        sum(task.restarts for task in tasks.values()),
        len(indices) - len(tasks) if submission.job_id() is not None else 0,
    )


def _array_from_files(submission: Submission, indices: Sequence[int]) -> JobArray:
    job_id = submission.job_id()
    started = sum(_has_started(submission, index) for index in indices)
    not_started = len(indices) - started
    pending = (PendingTasks(not_started, ""),) if not_started else ()
    return JobArray(
        submission.token, submission.job_name, job_id, len(indices), started, pending=pending
    )


def _has_started(submission: Submission, index: int) -> bool:
    """Return True if a task's lease has a writer folder that is not expired."""
    with suppress(OSError):
        writer_dirs = submission.lease_dir(index).iterdir()
        return any(not path.name.endswith(TAKEN_SUFFIX) for path in writer_dirs)
    return False


def _parse_time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # N/A
        return None


@dataclass(frozen=True)
class SlurmAnswer:
    """Answer of squeue about some jobs.

    Attributes
    ----------
    tasks
        Pending and running tasks. None: Slurm has not answered.
    names
        Names of the jobs in the query.
    note
        Reason why Slurm has not answered.
    """

    tasks: Mapping[TaskKey, QueuedTask] | None = None
    names: frozenset[str] = frozenset()
    note: str | None = None


class SlurmPoller:
    """Regular queries of squeue in a thread.

    Parameters
    ----------
    wait_for_first
        True: the first `poll` waits for the answer, up to `ANSWER_TIMEOUT`.
    """

    def __init__(self, wait_for_first: bool = True) -> None:
        self._wait_for_first = wait_for_first
        self._answer = SlurmAnswer()
        self._query_time = self._next_query = 0.0
        self._thread: threading.Thread | None = None

    def poll(self, names: Collection[str]) -> SlurmAnswer:
        """Return the latest answer about jobs with these names, and start a query if one is due."""
        if not names:
            return SlurmAnswer()
        if shutil.which("squeue") is None:
            return SlurmAnswer(
                note="squeue is not installed here; showing the state from the sweep's files"
            )
        if self._thread is None:
            thread = self._start(names)
            if self._wait_for_first:
                thread.join(ANSWER_TIMEOUT)
        elif not self._thread.is_alive() and time.monotonic() >= self._next_query:
            thread = self._start(names)
        else:
            thread = self._thread
        late = thread.is_alive() and time.monotonic() - self._query_time >= ANSWER_TIMEOUT
        return SlurmAnswer(note=NO_ANSWER) if late else self._answer

    def _start(self, names: Collection[str]) -> threading.Thread:
        self._query_time = time.monotonic()
        # A daemon thread: the process can exit while a query is running.
        self._thread = threading.Thread(target=self._query, args=[frozenset(names)], daemon=True)
        self._thread.start()
        return self._thread

    def _query(self, names: frozenset[str]) -> None:
        try:
            self._answer = SlurmAnswer(squeue(names), names)
            took = time.monotonic() - self._query_time
            self._next_query = self._query_time + max(POLL_SECONDS, took / POLL_SHARE)
        except SlurmError as error:
            self._answer = SlurmAnswer(note=f"{NO_ANSWER} ({error})")
            self._next_query = time.monotonic() + POLL_SECONDS
