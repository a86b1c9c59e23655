"""A sweep's jobs in words: as lines of a screen, and within a line of a log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from experiments.sweep.view.jobs import JobArray, Jobs
from experiments.sweep.view.reasons import in_words
from experiments.sweep.view.units import clock, several

NODES = 4  # nodes that are named; others are counted


@dataclass(frozen=True)
class Line:
    """So many elements of an array, what they do, and where or why."""

    number: str
    word: str
    detail: str


def lines(array: JobArray, known: bool) -> Iterator[Line]:
    """What there is to say of an array; `known`: by Slurm, and not by the files alone."""
    if array.running:
        yield Line(str(array.running), "run" if known else "begun", _nodes(array.nodes))
    for number, wait in enumerate(array.waits):
        word = "wait" if known else "not begun"
        yield Line(str(wait.count), word, _wait(wait.reason, array.start if not number else None))
    for reason in dict.fromkeys(array.held.values()):
        count = sum(each == reason for each in array.held.values())
        yield Line(str(count), "held", in_words(reason))
    if array.release is not None:
        yield Line("", "", f"to free them: {array.release}")
    if array.requeued:
        yield Line(f"{array.requeued}×", "requeued", "")
    if array.absent:
        yield Line(str(array.absent), "gone", "from Slurm's queue, before all their cells ended")


def _wait(reason: str, start: datetime | None) -> str:
    words = [in_words(reason)] if reason else []
    if start is not None and start > (now := datetime.now()):
        words.append(f"expected at {clock(start, now)}")
    return "; ".join(words)


def _nodes(nodes: Sequence[str]) -> str:
    named = ", ".join(nodes[:NODES])
    more = f" and {len(nodes) - NODES} more" if len(nodes) > NODES else ""
    return f"on {named}{more}" if nodes else ""


def in_short(jobs: Jobs) -> str:
    """All of a sweep's jobs, in a few words.

    Examples
    --------
    >>> array = JobArray("t", "s.t", "7", left=3, running=2, absent=1)
    >>> in_short(Jobs((array,), at_work=frozenset(["t-0", "t-1"])))
    '2 jobs running, 1 gone'
    >>> in_short(Jobs((array,), note="Slurm doesn't answer"))
    '2 jobs begun, 1 gone'
    """
    known = jobs.at_work is not None
    counts = {
        "running" if known else "begun": jobs.total("running"),
        "waiting" if known else "not begun": jobs.total("waiting"),
        "held": jobs.held,
        "gone": jobs.total("absent"),
    }
    said = [(count, word) for word, count in counts.items() if count]
    words = [f"{count} {word}" for count, word in said[1:]]
    return ", ".join([f"{several(count, 'job')} {word}" for count, word in said[:1]] + words)


def warnings(jobs: Jobs) -> Iterator[str]:
    """What somebody should see to, or know."""
    for array in jobs.arrays:
        if array.release is not None:
            why = " and ".join(dict.fromkeys(map(in_words, array.held.values())))
            held = f"{len(array.held)} held {why}"
            yield f"job {array.job_id}: {held}; to free them: {array.release}"
    if jobs.note is not None:
        yield jobs.note
