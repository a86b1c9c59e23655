"""The cause of a job's end, from accounting, exit codes and what it printed."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress

from experiments.sweep.slurm.commands import Ended, SlurmError, call
from experiments.sweep.slurm.submission import Submission

Cause = tuple[str, str]  # outcome, reason

MEMORY = re.compile(r"exceeded (job|step) memory limit|oom[-_ ]?kill|out of memory", re.IGNORECASE)
SAID = {  # what slurmstepd prints as it ends a job
    "DUE TO TIME LIMIT": ("timeout", "its job's time was up"),
    "DUE TO NODE FAILURE": ("node_fail", "its node failed"),
    "DUE TO PREEMPTION": ("killed", "its job was preempted"),
}
STATES = {
    "OUT_OF_MEMORY": ("oom", "its job used more memory than it had asked for"),
    "TIMEOUT": ("timeout", "its job's time was up"),
    "DEADLINE": ("timeout", "its job's deadline had come"),
    "NODE_FAIL": ("node_fail", "its node failed"),
    "BOOT_FAIL": ("node_fail", "its node did not boot"),
    "CANCELLED": ("cancelled", "its job was cancelled"),
    "PREEMPTED": ("killed", "its job was preempted"),
    "REQUEUED": ("killed", "its job was requeued in the middle of it"),
}
TASK = re.compile(r"^srun: error: [^:]+: tasks? [^:]+: (.+)$", re.MULTILINE)
TAIL = 20_000  # bytes of a log that are looked through
VANISHED = ("cancelled", "its job has vanished from the queue, as if cancelled before it began")
UNKNOWN = ("killed", "its job has ended; how isn't known here, as Slurm keeps no accounts")


def cause(ended: Ended | None, printed: str, accounts: bool) -> Cause:
    """Return the outcome and the reason of an element's end.

    `ended` is its last run as sacct has it (None: sacct has none), `printed` the end of its stderr,
    `accounts` False where the site keeps no accounting.

    Examples
    --------
    >>> cause(Ended("a", 0, "7", "FAILED", "9:0", "n1"), "", True)
    ('killed', 'its job ended with exit code 9 (job 7_0 on n1)')
    >>> cause(Ended("a", 0, "7", "CANCELLED by 0", "0:15", "n1"), "", True)
    ('cancelled', 'its job was cancelled (job 7_0 on n1)')
    """
    if ended is None:
        said = _said(printed)
        return said or (VANISHED if accounts else UNKNOWN)
    where = f" (job {ended.job}_{ended.index} on {ended.node})"
    state = ended.state.split()[0]
    if state == "FAILED" and MEMORY.search(printed):
        state = "OUT_OF_MEMORY"
    if state in STATES:
        outcome, reason = STATES[state]
        return outcome, reason + where
    if state == "COMPLETED":
        return "killed", f"its job left without a word, as by os._exit(0){where}"
    told = TASK.findall(printed)  # srun gives a signal's number as an exit code
    how = _told(told[-1]) if told else _exit(ended.exit_code)
    return "killed", f"its job ended with {how}{where}"


def job_stderr(submission: Submission, index: int) -> str:
    """Return the end of what an element's job has written to stderr."""
    job = submission.job_id()
    text = b""
    with suppress(OSError), open(submission.logs / f"{job}_{index}_0_log.err", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        text = file.read()
    return text.decode(errors="replace")


def previous_end(index: int) -> Cause:
    """Return why the run before this one ended, in a job that was started again."""
    job = f"{os.environ.get('SLURM_ARRAY_JOB_ID')}_{index}"
    states: list[str] = []
    with suppress(SlurmError):
        states = call(
            "sacct", "-n", "-P", "-X", "-D", "-j", job, "--format=State", seconds=10
        ).split("\n")
    done = [state.split()[0] for state in states if state.strip()]
    before = [state for state in done if state not in ("RUNNING", "PENDING")]
    outcome, reason = STATES.get(before[-1] if before else "", STATES["REQUEUED"])
    if outcome not in ("killed", "node_fail"):  # it runs again all the same
        outcome = "killed"
    return outcome, f"{reason} (job {job})"


def _said(printed: str) -> Cause | None:
    if MEMORY.search(printed):
        return STATES["OUT_OF_MEMORY"]
    return next((found for words, found in SAID.items() if words in printed), None)


def _told(words: str) -> str:
    """Name how a task ended, from srun's words.

    >>> _told("Killed"), _told("Exited with exit code 3"), _told("Segmentation fault (core dumped)")
    ('signal SIGKILL', 'exit code 3', 'signal SIGSEGV')
    """
    words = words.strip().removesuffix(" (core dumped)").removeprefix("Exited with ")
    names = {signal.strsignal(number): number.name for number in signal.Signals}
    return f"signal {names[words]}" if words in names else words


def _exit(code: str) -> str:
    """Name how a job ended, from sacct's exit code.

    >>> _exit("0:9"), _exit("137:0"), _exit("3:0")
    ('signal SIGKILL', 'signal SIGKILL', 'exit code 3')
    """
    status, _, number = code.partition(":")
    signalled = int(number or 0) or (int(status) - 128 if int(status) > 128 else 0)
    with suppress(ValueError):
        if signalled:
            return f"signal {signal.Signals(signalled).name}"
    return f"exit code {status}"
