"""Slurm's commands, called with a time limit: their errors, squeue's and sacct's answers."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from fanin.errors import FaninError

SECONDS = 30.0  # that a command may take: a busy controller answers late
AWAY = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Connection (refused|timed out|reset)"
    r"|Resource temporarily unavailable|Transport endpoint|Zero Bytes|slurm_persist_conn"
    r"|Unable to connect to database|Unexpected message received|backup controller"
    r"|Slurm temporarily unable|Communication connection failure",
    re.IGNORECASE,
)
UNACCOUNTED = re.compile(r"accounting storage is disabled", re.IGNORECASE)
FULL = re.compile(
    r"AssocMaxSubmitJob|QOSMaxSubmitJob|Job violates accounting/QOS policy \(job submit limit"
    r"|MaxJobCount|max(imum)? (number of )?jobs",
    re.IGNORECASE,
)


# States of jobs that have not ended.
UNDER_WAY = (
    "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING", "REQUEUED",
    "REQUEUE_HOLD", "SPECIAL_EXIT", "STOPPED", "SIGNALING", "STAGE_OUT", "REQUEUE_FED",
    "RESV_DEL_HOLD",
)  # fmt: skip
# Wide enough for any; what is longer is cut off, the job's name never (`submission.job_name`).
WIDTHS = {
    "Name": 120,
    "ArrayJobID": 24,
    "ArrayTaskID": 24,
    "State": 24,
    "Reason": 120,
    "NodeList": 120,
    "StartTime": 32,
    "RestartCnt": 12,
}
Key = tuple[str, int]  # a job's name, and its place in the array


class SlurmError(FaninError):
    """A Slurm command that failed."""


class SlurmUnavailable(SlurmError):
    """No answer from Slurm; the same command may work later."""


class SlurmNoAccounting(SlurmError):
    """A site without accounting: sacct cannot say how a job ended."""


class SlurmJobLimit(SlurmError):
    """A limit on queued jobs that is reached; there will be room later."""


def call(*words: str, seconds: float = SECONDS) -> str:
    """Run one of Slurm's commands, with a time limit; return what it printed.

    Raises
    ------
    SlurmError
        There is no such command here, or it failed; `SlurmUnavailable` and `SlurmJobLimit` where
        the same command may succeed later.
    """
    if shutil.which(words[0]) is None:
        raise SlurmError(
            f"there is no {words[0]} here: runner=slurm works on a cluster's login node "
            "(runner=local runs the same cells on this machine)"
        )
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise SlurmUnavailable(f"{words[0]}: no answer within {seconds:g} s") from error
    if done.returncode == 0:
        return done.stdout
    said = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
    said = said.removeprefix(f"{words[0]}: ")
    raise _kind(said)(f"{words[0]}: {said}")


def _kind(said: str) -> type[SlurmError]:
    if AWAY.search(said):
        return SlurmUnavailable
    if UNACCOUNTED.search(said):
        return SlurmNoAccounting
    return SlurmJobLimit if FULL.search(said) else SlurmError


def max_array_size() -> int:
    """Return the site's MaxArraySize: one more than the highest index that an array may have."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"), re.M)
    if found is None:
        raise SlurmError(
            "scontrol show config doesn't tell MaxArraySize: set runner.max_array_size"
        )
    return int(found[1])


def cancel(names: Iterable[str]) -> None:
    """Cancel all jobs of these names, waiting or running."""
    for name in names:
        call("scancel", f"--name={name}")


@dataclass(frozen=True)
class Waiting:
    """An element that waits or runs.

    `start` is its expected or actual start; as Slurm says it, `N/A` where it can't.
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
        """Its id, as people type it."""
        return f"{self.job}_{self.index}"

    @property
    def held(self) -> bool:
        """True if it waits for somebody to release it."""
        reason = self.reason.lower()
        return self.state == "REQUEUE_HOLD" or "held" in reason or "hold" in reason


@dataclass(frozen=True)
class Ended:
    """The end of an element's run."""

    name: str
    index: int
    job: str
    state: str
    exit_code: str
    node: str


def waiting(names: Iterable[str]) -> dict[Key, Waiting]:
    """Return the elements of jobs of these names that wait or run (squeue)."""
    wanted = ",".join(sorted(names))
    if not wanted:
        return {}
    columns = ",".join(f"{name}:{width}" for name, width in WIDTHS.items())
    said = call(
        "squeue", "--noheader", "--array", f"--name={wanted}", f"--states={','.join(UNDER_WAY)}",
        f"--Format={columns}",
    )  # fmt: skip
    return {(each.name, each.index): each for each in map(_waiting, said.splitlines()) if each}


def ended(names: Iterable[str], since: str) -> dict[Key, list[Ended]]:
    """Return how the elements of jobs of these names ended (sacct), the latest run of each last.

    `since` is when the first of them was submitted (ISO 8601): sacct looks no further back.
    """
    wanted = ",".join(sorted(names))
    if not wanted:
        return {}
    said = call(
        "sacct", "--noheader", "--parsable2", "--allocations", "--duplicates",
        f"--name={wanted}", f"--starttime={since}",
        "--format=JobName,JobID,State,ExitCode,NodeList",
    )  # fmt: skip
    found: dict[Key, list[Ended]] = {}
    for line in said.splitlines():
        name, job_id, state, code, node = line.split("|")
        job, _, index = job_id.partition("_")
        if index.isdecimal():  # else elements that have never begun, `[3-7]`
            one = Ended(name, int(index), job, state, code, node)
            found.setdefault((name, int(index)), []).append(one)
    return found


def _waiting(line: str) -> Waiting | None:
    fields, start = [], 0
    for width in WIDTHS.values():
        fields.append(line[start : start + width].strip())
        start += width
    name, job, index, state, reason, node, begins, restarts = fields
    if not index.isdecimal():
        return None
    count = int(restarts) if restarts.isdecimal() else 0
    return Waiting(name, int(index), job, state, reason, node, begins, count)
