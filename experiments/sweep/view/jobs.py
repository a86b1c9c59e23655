"""A sweep's jobs: what Slurm says of them, or else the sweep's own files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime


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
        """How many wait for their turn, and for nobody."""
        return sum(wait.count for wait in self.waits)

    @property
    def release(self) -> str | None:
        """What frees those that are held."""
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
        """How many somebody must release."""
        return sum(len(array.held) for array in self.arrays)

    @property
    def under_way(self) -> bool:
        """Whether any waits or runs, as far as is known."""
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
