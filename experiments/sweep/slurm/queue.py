"""What Slurm knows of our jobs: those that wait or run (squeue), and how others ended (sacct)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from experiments.sweep.slurm.calls import UNDER_WAY, call

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


@dataclass(frozen=True)
class Waiting:
    """An element that waits or runs.

    `start` is when it is expected to begin, or began; as Slurm says it, `N/A` where it can't.
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
        """Whether it waits for somebody to release it."""
        reason = self.reason.lower()
        return self.state == "REQUEUE_HOLD" or "held" in reason or "hold" in reason


@dataclass(frozen=True)
class Ended:
    """How an element ended, or how an earlier run of it did."""

    name: str
    index: int
    job: str
    state: str
    exit_code: str
    node: str


def waiting(names: Iterable[str]) -> dict[Key, Waiting]:
    """The elements of jobs of these names that wait or run.

    Raises
    ------
    SlurmError
        As `call`.
    """
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
    """How the elements of jobs of these names have ended, the latest run of each last.

    Parameters
    ----------
    names
        The jobs'.
    since
        When the first of them was submitted (ISO 8601): sacct looks no further back than asked.

    Raises
    ------
    SlurmError
        As `call`; also where the site keeps no accounts.
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
