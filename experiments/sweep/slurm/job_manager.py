"""Submission of shards to Slurm as its limits allow, and recovery of shards of dead jobs."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from experiments.atomic_write import atomic_write
from experiments.sweep.slurm.commands import (
    UNDER_WAY,
    Ended,
    Key,
    SlurmError,
    SlurmJobLimit,
    SlurmNoAccounting,
    SlurmUnavailable,
    Waiting,
    call,
    cancel,
    ended,
    waiting,
)
from experiments.sweep.slurm.exit_cause import Cause, cause, job_stderr
from experiments.sweep.slurm.lease import StaleJobDetector, expire, settle_lost, take_back
from experiments.sweep.slurm.run_shard import made_progress
from experiments.sweep.slurm.shards import Shard, isolate, remaining_cells
from experiments.sweep.slurm.submission import (
    JobConfig,
    Submission,
    log,
    open_submissions,
    pause,
    submit,
    write_submission,
)
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import read_states
from fanin.errors import FaninError

CONFIRMED = 8.0  # seconds for which a job must be missing: Slurm requeues those of dead nodes
WITHOUT_ACCOUNTS = 60.0  # seconds after which a missing job's end is settled without sacct
TRIES = 3  # jobs in a row that die before any cell of theirs begins
CANCEL_GRACE = 30.0  # seconds that cancelled jobs have to save their state
CANCELLED = ("cancelled", "the sweep was cancelled")  # outcome, reason

Script = Callable[[Submission], str]


@dataclass
class JobManager:
    """One launcher's handling of a sweep's jobs.

    Parameters
    ----------
    folder
        The sweep's.
    job_config
        Settings of the jobs that are submitted from here.
    script
        The batch script of a submission.
    array_size
        Most elements of an array.
    max_jobs
        Most elements that may wait or run at once; None: as many as Slurm takes.
    beat
        Called now and then.
    stale_jobs
        Finds jobs of which nothing is left though Slurm says they run.
    """

    folder: SweepFolder
    job_config: JobConfig
    script: Script
    array_size: int
    max_jobs: int | None
    beat: Callable[[], None]
    stale_jobs: StaleJobDetector
    queue: deque[tuple[Shard, int]] = field(default_factory=deque)  # with their fruitless tries
    dead: list[str] = field(default_factory=list)  # how jobs ended that are not tried again
    _names: set[str] = field(default_factory=set)
    _noted: set[str] = field(default_factory=set)
    _missing: dict[Key, float] = field(default_factory=dict)

    def add(self, shards: Iterable[Shard]) -> None:
        """Queue shards for submission."""
        self.queue.extend((shard, 0) for shard in shards)

    def adopt(self) -> None:
        """Submit what an earlier launcher wrote down and, as it seems, never submitted.

        Raises
        ------
        SlurmError
            As `submit`.
        """
        for submission in open_submissions(self.folder):
            if submission.job_id() is None:
                self._submit(submission)

    def submit_pending(self) -> None:
        """Submit as many of the shards as there is room for.

        Raises
        ------
        SlurmError
            Slurm refuses them.
        """
        room = self._room()
        while self.queue and room > 0:
            tries = self.queue[0][1]
            part: list[Shard] = []
            while self.queue and len(part) < min(room, self.array_size):
                if self.queue[0][1] != tries:
                    break
                part.append(self.queue.popleft()[0])
            submission = write_submission(self.folder, part, replace(self.job_config, tries=tries))
            try:
                self._submit(submission)
            except SlurmJobLimit as error:
                self.queue.extendleft((shard, tries) for shard in reversed(part))
                self._note(f"{error}; the rest is submitted when there is room")
                return
            room -= len(part)

    def poll(self) -> None:
        """Find jobs that are gone with unfinished cells, and reclaim their shards.

        While Slurm does not answer, nothing is decided.
        """
        there = {s.job_name: s for s in open_submissions(self.folder)}
        wanted = {(name, i) for name, s in there.items() for i in s.open_indices()}
        try:
            alive = waiting(there)
        except SlurmUnavailable as error:
            self._note(f"{error}; nothing is decided until it answers")
            self._missing.clear()  # an absence counts while it is seen
            return
        self._names |= there.keys()
        running = (key for key in wanted if key in alive and alive[key].state == "RUNNING")
        for key in self.stale_jobs.over({key: there[key[0]].lease_dir(key[1]) for key in running}):
            self._handle_stale_job(there[key[0]], alive[key])
        now = time.monotonic()
        self._missing = {key: self._missing.get(key, now) for key in wanted - alive.keys()}
        gone = {key for key, since in self._missing.items() if now - since >= CONFIRMED}
        if not gone:
            return
        names = {name for name, _ in gone}
        patience = 0.0
        try:
            runs, accounts = ended(names, min(there[name].since for name in names)), True
        except SlurmNoAccounting:
            runs, accounts = {}, False
        except SlurmError as error:
            self._note(f"{error}; how jobs ended is settled without it if it stays so")
            runs, accounts, patience = {}, False, WITHOUT_ACCOUNTS
        for key in sorted(gone):
            last = runs[key][-1] if runs.get(key) else None
            if last is not None and last.state.split()[0] in UNDER_WAY:
                continue  # the accounts lag behind
            if now - self._missing[key] >= patience:
                self._handle_dead_job(there[key[0]], key[1], last, accounts)

    @property
    def idle(self) -> bool:
        """True if nothing is left to submit or to wait for."""
        return not self.queue and not open_submissions(self.folder)

    def _submit(self, submission: Submission) -> None:
        atomic_write(submission.script, self.script(submission).encode())
        try:
            submit(submission, self.beat)
        except SlurmUnavailable:
            raise  # it may be in the queue all the same: what is written down stays
        except SlurmError:
            submission.forget()
            raise

    def _room(self) -> int:
        if self.max_jobs is None or not self.queue:
            return len(self.queue)
        there = open_submissions(self.folder)
        self._names |= {submission.job_name for submission in there}
        try:  # jobs that have just ended count for a while
            queued = len(waiting(self._names))
        except SlurmError:
            return 0
        taken = max(queued, sum(len(submission.open_indices()) for submission in there))
        return min(len(self.queue), self.max_jobs - taken)

    def _handle_stale_job(self, submission: Submission, ghost: Waiting) -> None:
        """Reclaim the shard of a job that Slurm lists as running and that gives no sign of life."""
        said = f"nothing was heard of it on {ghost.node} for {self.stale_jobs.limit:g} s"
        self._reclaim(submission, ghost.index, ("node_fail", f"{said} (job {ghost.job_id})"))
        with suppress(SlurmError):
            call("scancel", ghost.job_id)

    def _handle_dead_job(
        self, submission: Submission, index: int, last: Ended | None, accounts: bool
    ) -> None:
        stderr = job_stderr(submission, index)
        self._reclaim(submission, index, cause(last, stderr, accounts))

    def _reclaim(self, submission: Submission, index: int, why: Cause) -> None:
        """Keep what a job has finished, and queue the rest again."""
        shard = submission.shard(index)
        stderr = job_stderr(submission, index).strip().splitlines()
        outcome, reason = why
        begun = reclaim_shard(submission, index, outcome, reason)
        if begun is None:  # it has ended well meanwhile
            return
        rest = tuple(
            remaining_cells(shard, read_states(self.folder), submission.job_config.attempts)
        )
        self._note(f"{submission.job_name}[{index}]: {reason}")
        if not rest or outcome == "cancelled":
            return
        fewer = sum(len(pack.cells) for pack in rest) < sum(len(pack.cells) for pack in shard)
        moved = begun or fewer or made_progress(submission, index)
        tries = 0 if moved else submission.job_config.tries + 1
        if tries == 0 or (tries < TRIES and not self.dead):
            # Whose memory was too much shows when each runs by itself.
            parts = isolate(rest, shard) if outcome == "oom" else [rest]
            self.queue.extend((part, tries) for part in parts)
            return
        path = submission.logs / f"{submission.job_id()}_{index}_0_log.err"
        self.dead.append(f"{reason}; it said: {stderr[-1] if stderr else 'nothing'} ({path})")

    def close(self) -> None:
        """Remove what is left in the queue when all cells have ended.

        Raises
        ------
        FaninError
            Jobs died before they began a cell.
        """
        with suppress(SlurmError):  # such as were requeued when their cells had ended
            left = waiting(self._names).values()
            ids = [each.job_id for each in left if each.state == "PENDING"]
            if ids:
                call("scancel", *ids)
        if self.dead:
            raise FaninError(
                f"jobs have died {TRIES} times before they began a cell, the last one as "
                f"{self.dead[-1]}; when that is mended, the same command goes on from here"
            )

    def _note(self, text: str) -> None:
        """Say once what has happened."""
        if text not in self._noted:
            self._noted.add(text)
            log(self.folder, text)


def arrays_needed(shards: Sequence[Shard], array_size: int) -> list[int]:
    """Return the number of elements of each array that shards are submitted in.

    Examples
    --------
    >>> arrays_needed([()] * 25, 11)
    [11, 11, 3]
    """
    whole, rest = divmod(len(shards), array_size)
    return [array_size] * whole + [rest] * (rest > 0)


def reclaim_shard(submission: Submission, index: int, outcome: str, reason: str) -> int | None:
    """Take an element's shard back and finalize it; a copy that still runs can publish nothing.

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
    taken = take_back(submission.lease_dir(index))
    if taken is None:
        return None
    expire(taken)
    shard = submission.shard(index)
    tasks = {task.cell_id: task for pack in shard for task in pack.cells}
    begun = settle_lost(submission.folder, taken, tasks, outcome, reason)
    shutil.rmtree(taken, ignore_errors=True)
    return begun


def cancel_jobs(folder: SweepFolder, beat: Callable[[], None]) -> int:
    """Cancel all jobs of a sweep, reclaim their shards, and return how many there were.

    Raises
    ------
    SlurmError
        scancel failed; nothing has changed.
    """
    there = open_submissions(folder)
    names = [submission.job_name for submission in there]
    cancel(names)
    until = time.monotonic() + CANCEL_GRACE
    while time.monotonic() < until:
        try:
            if not waiting(names):
                break
        except SlurmUnavailable:
            break
        pause(0.5, beat)
    count = 0
    for submission in there:
        for index in submission.open_indices():
            reclaim_shard(submission, index, *CANCELLED)
            count += 1
    return count
