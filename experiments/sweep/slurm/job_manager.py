"""Submission of shards within Slurm's limits, and recovery of the shards of dead jobs."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from experiments.atomic_write import atomic_write
from experiments.sweep.slurm.commands import (
    ACTIVE_STATES,
    QueuedTask,
    SlurmError,
    SlurmJobLimit,
    SlurmNoAccounting,
    SlurmUnavailable,
    TaskKey,
    TaskRun,
    run_slurm,
    sacct,
    scancel,
    squeue,
)
from experiments.sweep.slurm.exit_cause import Cause, find_cause, job_stderr
from experiments.sweep.slurm.lease import (
    StaleJobDetector,
    expire_writers,
    finalize_expired,
    revoke,
)
from experiments.sweep.slurm.run_shard import made_progress
from experiments.sweep.slurm.shards import Shard, isolate, remaining_cells
from experiments.sweep.slurm.submission import (
    JobConfig,
    Submission,
    append_log,
    open_submissions,
    sleep_with_heartbeat,
    submit,
    write_submission,
)
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import read_states
from experiments.sweep.types import Heartbeat
from fanin.errors import FaninError

# Seconds after which a job that squeue does not list is dead. Slurm requeues jobs of failed nodes,
# so squeue still lists those.
MISSING_SECONDS = 8.0
NO_ACCOUNTING_SECONDS = 60.0  # the same, while sacct does not answer
MAX_STARTUP_FAILURES = 3  # jobs in a row that fail before starting a cell
CANCEL_GRACE = 30.0  # seconds that cancelled jobs have to save their state
CANCELLED = ("cancelled", "the sweep was cancelled")  # outcome, reason

BatchScript = Callable[[Submission], str]


@dataclass
class JobManager:
    """Submission and supervision of a sweep's jobs by one launcher.

    Parameters
    ----------
    folder
        Folder of the sweep.
    job_config
        Settings of the jobs that this launcher submits.
    script
        Function that returns the batch script of a submission.
    array_size
        Maximum number of tasks in a job array.
    max_jobs
        Maximum number of tasks that are pending or running at once. None: no limit.
    heartbeat
        Function to call regularly.
    stale_jobs
        Detector of jobs that Slurm lists as running although none of their processes is left.
    """

    folder: SweepFolder
    job_config: JobConfig
    script: BatchScript
    array_size: int
    max_jobs: int | None
    heartbeat: Heartbeat
    stale_jobs: StaleJobDetector
    queue: deque[tuple[Shard, int]] = field(default_factory=deque)  # with their startup failures
    fatal_errors: list[str] = field(default_factory=list)  # of shards that are not tried again
    _job_names: set[str] = field(default_factory=set)
    _logged: set[str] = field(default_factory=set)
    _missing_since: dict[TaskKey, float] = field(default_factory=dict)

    def add(self, shards: Iterable[Shard]) -> None:
        """Queue shards for submission."""
        self.queue.extend((shard, 0) for shard in shards)

    def resume_unsubmitted(self) -> None:
        """Submit the arrays that an earlier launcher wrote to disk but apparently did not submit.

        Raises
        ------
        SlurmError
            As `submit`, except `SlurmJobLimit`.
        """
        for submission in open_submissions(self.folder):
            if submission.job_id() is None:
                shards = [submission.shard(index) for index in range(submission.size)]
                try:
                    self._submit(submission)
                except SlurmJobLimit:
                    self.add(shards)  # `submit_pending` waits until the limit allows them

    def submit_pending(self) -> None:
        """Submit as many queued shards as `max_jobs` and Slurm's limits allow.

        Raises
        ------
        SlurmError
            Slurm refuses them.
        """
        free = self._free_slots()
        while self.queue and free > 0:
            failures = self.queue[0][1]
            shards: list[Shard] = []
            while self.queue and len(shards) < min(free, self.array_size):
                if self.queue[0][1] != failures:
                    break
                shards.append(self.queue.popleft()[0])
            job_config = replace(self.job_config, startup_failures=failures)
            submission = write_submission(self.folder, shards, job_config)
            try:
                self._submit(submission)
            except SlurmJobLimit as error:
                self.queue.extendleft((shard, failures) for shard in reversed(shards))
                self._log_once(f"{error}; the rest will be submitted when the limit allows it")
                return
            free -= len(shards)

    def poll(self) -> None:
        """Find jobs that ended with unfinished cells and reclaim their shards.

        While Slurm does not answer, no job is treated as dead.
        """
        submissions = {s.job_name: s for s in open_submissions(self.folder)}
        expected = {(name, i) for name, s in submissions.items() for i in s.open_indices()}
        try:
            queued = squeue(submissions)
        except SlurmUnavailable as error:
            self._log_once(f"{error}; no job is treated as dead until Slurm answers")
            self._missing_since.clear()  # only time during which Slurm answers counts
            return
        self._job_names |= submissions.keys()
        running = (key for key in expected if key in queued and queued[key].state == "RUNNING")
        leases = {key: submissions[key[0]].lease_dir(key[1]) for key in running}
        for key in self.stale_jobs.stale(leases):
            self._handle_stale_job(submissions[key[0]], queued[key])
        now = time.monotonic()
        self._missing_since = {
            key: self._missing_since.get(key, now) for key in expected - queued.keys()
        }
        missing = {
            key for key, since in self._missing_since.items() if now - since >= MISSING_SECONDS
        }
        if not missing:
            return
        names = {name for name, _ in missing}
        min_missing = 0.0
        try:
            runs = sacct(names, min(submissions[name].since for name in names))
            accounting = True
        except SlurmNoAccounting:
            runs, accounting = {}, False
        except SlurmError as error:
            self._log_once(
                f"{error}; after {NO_ACCOUNTING_SECONDS:g} s, ended jobs are handled without sacct"
            )
            runs, accounting, min_missing = {}, False, NO_ACCOUNTING_SECONDS
        for key in sorted(missing):
            last = runs[key][-1] if runs.get(key) else None
            if last is not None and last.state.split()[0] in ACTIVE_STATES:
                continue  # the accounting database lags behind
            if now - self._missing_since[key] >= min_missing:
                self.heartbeat()
                self._handle_dead_job(submissions[key[0]], key[1], last, accounting)

    @property
    def idle(self) -> bool:
        """True if no shard is queued and no job has unfinished cells."""
        return not self.queue and not open_submissions(self.folder)

    def _submit(self, submission: Submission) -> None:
        atomic_write(submission.script, self.script(submission).encode())
        try:
            submit(submission, self.heartbeat)
        except SlurmUnavailable:
            raise  # Slurm may have queued it nevertheless, so keep its files
        except SlurmError:
            submission.delete()
            raise

    def _free_slots(self) -> int:
        """Return how many shards may be submitted now."""
        if self.max_jobs is None or not self.queue:
            return len(self.queue)
        submissions = open_submissions(self.folder)
        self._job_names |= {submission.job_name for submission in submissions}
        try:  # Slurm's limit also counts jobs that have just ended
            queued = len(squeue(self._job_names))
        except SlurmError:
            return 0
        used = max(queued, sum(len(submission.open_indices()) for submission in submissions))
        return min(len(self.queue), self.max_jobs - used)

    def _handle_stale_job(self, submission: Submission, task: QueuedTask) -> None:
        """Reclaim the shard of a job that Slurm lists as running but that sends no heartbeat."""
        reason = f"no heartbeat from {task.node} for {self.stale_jobs.timeout:g} s"
        self._reclaim(submission, task.index, ("node_fail", f"{reason} (job {task.job_id})"))
        with suppress(SlurmError):
            run_slurm("scancel", task.job_id)

    def _handle_dead_job(
        self, submission: Submission, index: int, last: TaskRun | None, accounting: bool
    ) -> None:
        stderr = job_stderr(submission, index)
        self._reclaim(submission, index, find_cause(last, stderr, accounting))

    def _reclaim(self, submission: Submission, index: int, cause: Cause) -> None:
        """Keep the results of a job's finished cells and queue the other cells again."""
        shard = submission.shard(index)
        stderr = job_stderr(submission, index).strip().splitlines()
        outcome, reason = cause
        n_started = reclaim_shard(submission, index, outcome, reason)
        if n_started is None:  # the job has finished its shard in the meantime
            return
        remaining = tuple(
            remaining_cells(shard, read_states(self.folder), submission.job_config.attempts)
        )
        self._log_once(f"{submission.job_name}[{index}]: {reason}")
        if not remaining or outcome == "cancelled":
            return
        fewer = sum(len(pack.cells) for pack in remaining) < sum(len(pack.cells) for pack in shard)
        progressed = n_started or fewer or made_progress(submission, index)
        failures = 0 if progressed else submission.job_config.startup_failures + 1
        if failures == 0 or (failures < MAX_STARTUP_FAILURES and not self.fatal_errors):
            # Run each lost cell alone after an out-of-memory error, to find the cell that caused
            # it.
            shards = isolate(remaining, shard) if outcome == "oom" else [remaining]
            self.queue.extend((part, failures) for part in shards)
            return
        path = submission.logs / f"{submission.job_id()}_{index}_0_log.err"
        last_line = stderr[-1] if stderr else "(empty)"
        self.fatal_errors.append(f"{reason}; last line of stderr: {last_line} ({path})")

    def close(self) -> None:
        """Cancel jobs that are still pending although all cells have ended.

        Raises
        ------
        FaninError
            Jobs failed before starting a cell.
        """
        with suppress(SlurmError):  # for example jobs that Slurm requeued after their last cell
            tasks = squeue(self._job_names).values()
            ids = [task.job_id for task in tasks if task.state == "PENDING"]
            if ids:
                run_slurm("scancel", *ids)
        if self.fatal_errors:
            raise FaninError(
                f"{MAX_STARTUP_FAILURES} jobs in a row failed before starting a cell. Last error: "
                f"{self.fatal_errors[-1]}. Fix it and run the same command again to resume."
            )

    def _log_once(self, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            append_log(self.folder, text)


def array_sizes(shards: Sequence[Shard], array_size: int) -> list[int]:
    """Return the number of tasks of each job array needed for the shards.

    Examples
    --------
    >>> array_sizes([()] * 25, 11)
    [11, 11, 3]
    """
    n_full, rest = divmod(len(shards), array_size)
    return [array_size] * n_full + [rest] * (rest > 0)


def reclaim_shard(submission: Submission, index: int, outcome: str, reason: str) -> int | None:
    """Revoke a task's lease, so that its processes cannot write, and finalize its journals.

    Parameters
    ----------
    submission, index
        Submission and array index of the task.
    outcome, reason
        Outcome and reason of its cells that were running.

    Returns
    -------
    int or None
        Number of its cells that were started; None if the task had released the lease.
    """
    lease_dir = revoke(submission.lease_dir(index))
    if lease_dir is None:
        return None
    expire_writers(lease_dir)
    shard = submission.shard(index)
    cells = {cell.cell_id: cell for pack in shard for cell in pack.cells}
    n_started = finalize_expired(submission.folder, lease_dir, cells, outcome, reason)
    shutil.rmtree(lease_dir, ignore_errors=True)
    return n_started


def cancel_jobs(folder: SweepFolder, heartbeat: Heartbeat) -> int:
    """Cancel all jobs of a sweep, reclaim their shards, and return the number of jobs.

    Raises
    ------
    SlurmError
        scancel failed; some jobs may be cancelled.
    """
    submissions = open_submissions(folder)
    names = [submission.job_name for submission in submissions]
    scancel(names)
    deadline = time.monotonic() + CANCEL_GRACE
    while time.monotonic() < deadline:
        try:
            if not squeue(names):
                break
        except SlurmError:
            break
        sleep_with_heartbeat(0.5, heartbeat)
    count = 0
    for submission in submissions:
        for index in submission.open_indices():
            heartbeat()
            reclaim_shard(submission, index, *CANCELLED)
            count += 1
    return count
