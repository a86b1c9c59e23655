"""Calls of Slurm's commands with a time limit, their errors, and parsed squeue and sacct output."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from fanin.errors import FaninError

COMMAND_TIMEOUT = 30.0  # seconds; a busy controller answers late
UNAVAILABLE = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Connection (refused|timed out|reset)"
    r"|Resource temporarily unavailable|Transport endpoint|Zero Bytes|slurm_persist_conn"
    r"|Unable to connect to database|Unexpected message received|backup controller"
    r"|Slurm temporarily unable|Communication connection failure|missing socket",
    re.IGNORECASE,
)
NO_ACCOUNTING = re.compile(r"accounting storage is disabled", re.IGNORECASE)
JOB_LIMIT = re.compile(
    r"AssocMaxSubmitJob|QOSMaxSubmitJob|Job violates accounting/QOS policy \(job submit limit"
    r"|MaxJobCount|max(imum)? (number of )?jobs",
    re.IGNORECASE,
)


# States of jobs that have not ended.
ACTIVE_STATES = (
    "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING", "REQUEUED",
    "REQUEUE_HOLD", "SPECIAL_EXIT", "STOPPED", "SIGNALING", "STAGE_OUT", "REQUEUE_FED",
    "RESV_DEL_HOLD",
)  # fmt: skip
# squeue truncates a longer value; job names always fit (`submission.NAME_LENGTH`).
COLUMN_WIDTHS = {
    "Name": 120,
    "ArrayJobID": 24,
    "ArrayTaskID": 24,
    "State": 24,
    "Reason": 120,
    "NodeList": 120,
    "StartTime": 32,
    "RestartCnt": 12,
}
TaskKey = tuple[str, int]  # job name and array index


class SlurmError(FaninError):
    """A Slurm command failed."""


class SlurmUnavailable(SlurmError):
    """Slurm did not answer; the same command may succeed later."""


class SlurmNoAccounting(SlurmError):
    """The site has no accounting, so sacct cannot report how a job ended."""


class SlurmJobLimit(SlurmError):
    """A limit on submitted jobs is reached; the same command may succeed later."""


def run_slurm(*arguments: str, timeout: float = COMMAND_TIMEOUT) -> str:
    """Run a Slurm command with a time limit (seconds) and return its output.

    Raises
    ------
    SlurmError
        The command does not exist here or failed. `SlurmUnavailable` and `SlurmJobLimit` if the
        same command may succeed later.
    """
    program = arguments[0]
    if shutil.which(program) is None:
        raise SlurmError(
            f"{program} is not installed here: runner=slurm needs a cluster's login node "
            "(runner=local runs the same cells on this machine)"
        )
    try:
        result = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise SlurmUnavailable(f"{program}: no answer within {timeout:g} s") from error
    if result.returncode == 0:
        return result.stdout
    output = " ".join((result.stderr or result.stdout).split())
    message = (output or f"exit status {result.returncode}").removeprefix(f"{program}: ")
    raise _error_class(message)(f"{program}: {message}")


def _error_class(message: str) -> type[SlurmError]:
    if UNAVAILABLE.search(message):
        return SlurmUnavailable
    if NO_ACCOUNTING.search(message):
        return SlurmNoAccounting
    return SlurmJobLimit if JOB_LIMIT.search(message) else SlurmError


def max_array_size() -> int:
    """Return the site's MaxArraySize: the highest allowed array index plus one."""
    config = run_slurm("scontrol", "show", "config")
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.M)
    if match is None:
        raise SlurmError(
            "scontrol show config doesn't list MaxArraySize: set runner.max_array_size"
        )
    return int(match[1])


def scancel(job_names: Iterable[str]) -> None:
    """Cancel all pending and running jobs with these names."""
    for name in job_names:
        run_slurm("scancel", f"--name={name}")


@dataclass(frozen=True)
class QueuedTask:
    """A pending or running array task, as squeue lists it.

    `start` is its expected or actual start time as text, `N/A` if Slurm does not know it.
    """

    name: str
    index: int
    job: str
    state: str
    reason: str
    node: str
    start: str
    restarts: int

    @property
    def job_id(self) -> str:
        """Job id of the task, such as `7_3`."""
        return f"{self.job}_{self.index}"

    @property
    def held(self) -> bool:
        """True if the task waits for a user to release it."""
        reason = self.reason.lower()
        return self.state == "REQUEUE_HOLD" or "held" in reason or "hold" in reason


@dataclass(frozen=True)
class TaskRun:
    """One run of an array task, as sacct lists it."""

    name: str
    index: int
    job: str
    state: str
    exit_code: str
    node: str


def squeue(job_names: Iterable[str]) -> dict[TaskKey, QueuedTask]:
    """Return the pending and running tasks of the jobs with these names."""
    names = ",".join(sorted(job_names))
    if not names:
        return {}
    columns = ",".join(f"{name}:{width}" for name, width in COLUMN_WIDTHS.items())
    output = run_slurm(
        "squeue", "--noheader", "--array", f"--name={names}", f"--states={','.join(ACTIVE_STATES)}",
        f"--Format={columns}",
    )  # fmt: skip
    tasks = map(_parse_squeue_line, output.splitlines())
    return {(task.name, task.index): task for task in tasks if task}


def sacct(job_names: Iterable[str], since: str) -> dict[TaskKey, list[TaskRun]]:
    """Return the runs of each task of the jobs with these names, the latest run last.

    `since` is the time when the first of them was submitted (ISO 8601): sacct lists no earlier
    jobs.
    """
    names = ",".join(sorted(job_names))
    if not names:
        return {}
    output = run_slurm(
        "sacct", "--noheader", "--parsable2", "--allocations", "--duplicates",
        f"--name={names}", f"--starttime={since}",
        "--format=JobName,JobID,State,ExitCode,NodeList",
    )  # fmt: skip
    runs: dict[TaskKey, list[TaskRun]] = {}
    for line in output.splitlines():
        name, job_id, state, code, node = line.split("|")
        job, _, index = job_id.partition("_")
        if index.isdecimal():  # tasks that never started are listed together, as `[3-7]`
            run = TaskRun(name, int(index), job, state, code, node)
            runs.setdefault((name, int(index)), []).append(run)
    return runs


def _parse_squeue_line(line: str) -> QueuedTask | None:
    fields, offset = [], 0
    for width in COLUMN_WIDTHS.values():
        fields.append(line[offset : offset + width].strip())
        offset += width
    name, job, index, state, reason, node, start, restarts = fields
    if not index.isdecimal():
        return None
    count = int(restarts) if restarts.isdecimal() else 0
    return QueuedTask(name, int(index), job, state, reason, node, start, count)
