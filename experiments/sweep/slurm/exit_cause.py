"""Outcome and reason of a job's end, from accounting, exit codes and stderr."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress

from experiments.sweep.slurm.commands import SlurmError, TaskRun, run_slurm
from experiments.sweep.slurm.submission import Submission

Cause = tuple[str, str]  # outcome, reason

OUT_OF_MEMORY = re.compile(
    r"exceeded (job|step) memory limit|oom[-_ ]?kill|out of memory", re.IGNORECASE
)
SLURMSTEPD_MESSAGES = {  # printed to stderr when slurmstepd ends a job
    "DUE TO TIME LIMIT": ("timeout", "Slurm job reached its time limit"),
    "DUE TO NODE FAILURE": ("node_fail", "node of the Slurm job failed"),
    "DUE TO PREEMPTION": ("killed", "Slurm job was preempted"),
}
STATES = {
    "OUT_OF_MEMORY": ("oom", "Slurm job exceeded its requested memory"),
    "TIMEOUT": ("timeout", "Slurm job reached its time limit"),
    "DEADLINE": ("timeout", "Slurm job reached its deadline"),
    "NODE_FAIL": ("node_fail", "node of the Slurm job failed"),
    "BOOT_FAIL": ("node_fail", "node of the Slurm job did not boot"),
    "CANCELLED": ("cancelled", "Slurm job was cancelled"),
    "PREEMPTED": ("killed", "Slurm job was preempted"),
    "REQUEUED": ("killed", "Slurm job was requeued while the cell was running"),
}
SRUN_ERROR = re.compile(r"^srun: error: [^:]+: tasks? [^:]+: (.+)$", re.MULTILINE)
STDERR_TAIL = 20_000  # bytes of a log that are searched
DISAPPEARED = (
    "cancelled",
    "Slurm job disappeared from the queue, probably cancelled before it started",
)
UNKNOWN = ("killed", "Slurm job ended; cause unknown because this site has no Slurm accounting")


def find_cause(run: TaskRun | None, stderr: str, accounting: bool) -> Cause:
    """Return the outcome and the reason of a task's end.

    `run` is the task's last run in sacct (None if sacct lists none), `stderr` the end of its
    stderr, and `accounting` False if the site has no accounting.

    Examples
    --------
    >>> find_cause(TaskRun("a", 0, "7", "FAILED", "9:0", "n1"), "", True)
    ('killed', 'Slurm job ended with exit code 9 (job 7_0 on n1)')
    >>> find_cause(TaskRun("a", 0, "7", "CANCELLED by 0", "0:15", "n1"), "", True)
    ('cancelled', 'Slurm job was cancelled (job 7_0 on n1)')
    """
    if run is None:
        return _cause_from_stderr(stderr) or (DISAPPEARED if accounting else UNKNOWN)
    job = f" (job {run.job}_{run.index} on {run.node})"
    state = run.state.split()[0]
    if state == "FAILED" and OUT_OF_MEMORY.search(stderr):
        state = "OUT_OF_MEMORY"
    if state in STATES:
        outcome, reason = STATES[state]
        return outcome, reason + job
    if state == "COMPLETED":
        return "killed", f"Slurm job exited with code 0 before its cells had finished{job}"
    # sacct shows srun's exit code, which may be the number of a signal or an exit code of the
    # program. srun's message says which.
    errors = SRUN_ERROR.findall(stderr)
    end = _describe_srun_error(errors[-1]) if errors else _describe_exit_code(run.exit_code)
    return "killed", f"Slurm job ended with {end}{job}"


def job_stderr(submission: Submission, index: int) -> str:
    """Return the end of a task's stderr."""
    job = submission.job_id()
    text = b""
    with suppress(OSError), open(submission.logs / f"{job}_{index}_0_log.err", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - STDERR_TAIL))
        text = file.read()
    return text.decode(errors="replace")


def previous_run_cause(index: int) -> Cause:
    """Return the outcome and the reason of this requeued task's previous run."""
    job = f"{os.environ.get('SLURM_ARRAY_JOB_ID')}_{index}"
    lines: list[str] = []
    with suppress(SlurmError):
        lines = run_slurm(
            "sacct", "-n", "-P", "-X", "-D", "-j", job, "--format=State", timeout=10
        ).split("\n")
    states = [line.split()[0] for line in lines if line.strip()]
    ended = [state for state in states if state not in ("RUNNING", "PENDING")]
    outcome, reason = STATES.get(ended[-1] if ended else "", STATES["REQUEUED"])
    if outcome not in ("killed", "node_fail"):  # other outcomes are final, but this task runs again
        outcome = "killed"
    return outcome, f"{reason} (job {job})"


def _cause_from_stderr(stderr: str) -> Cause | None:
    if OUT_OF_MEMORY.search(stderr):
        return STATES["OUT_OF_MEMORY"]
    causes = (cause for message, cause in SLURMSTEPD_MESSAGES.items() if message in stderr)
    return next(causes, None)


def _describe_srun_error(message: str) -> str:
    """Describe a task's end from srun's error message.

    >>> _describe_srun_error("Killed"), _describe_srun_error("Exited with exit code 3")
    ('signal SIGKILL', 'exit code 3')
    >>> _describe_srun_error("Segmentation fault (core dumped)")
    'signal SIGSEGV'
    """
    message = message.strip().removesuffix(" (core dumped)").removeprefix("Exited with ")
    names = {signal.strsignal(number): number.name for number in signal.Signals}
    return f"signal {names[message]}" if message in names else message


def _describe_exit_code(code: str) -> str:
    """Describe a job's end from sacct's exit code.

    >>> _describe_exit_code("0:9"), _describe_exit_code("137:0"), _describe_exit_code("3:0")
    ('signal SIGKILL', 'signal SIGKILL', 'exit code 3')
    """
    status, _, number = code.partition(":")
    signal_number = int(number or 0) or (int(status) - 128 if int(status) > 128 else 0)
    with suppress(ValueError):
        if signal_number:
            return f"signal {signal.Signals(signal_number).name}"
    return f"exit code {status}"
