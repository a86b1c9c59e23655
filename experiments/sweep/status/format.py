"""Text for people: numbers and times, a sweep's status, its jobs and Slurm's reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from experiments.sweep.status.slurm import JobArray, Jobs
from experiments.sweep.status.status import Failure, Status

MINUTE, HOUR, DAY = 60, 3600, 86400
REASONS = {
    "None": "Slurm has not looked at it yet",
    "Resources": "until nodes are free",
    "Priority": "behind jobs of higher priority",
    "JobArrayTaskLimit": "as many run as runner.slurm.array_parallelism allows",
    "BeginTime": "until Slurm starts it again, in a moment",
    "Cleaning": "until its last run is cleared away",
    "Dependency": "for another job",
    "Licenses": "for licences",
    "Reservation": "until its reservation begins",
    "PartitionDown": "its partition is closed",
    "PartitionInactive": "its partition is closed",
    "PartitionTimeLimit": "for ever: longer than its partition lets jobs run "
    "(runner.slurm.time_minutes)",
    "PartitionNodeLimit": "for ever: its partition has no such nodes",
    "PartitionConfig": "for ever: its partition has no such nodes",
    "BadConstraints": "for ever: no node has what it asks for (runner.slurm.constraint, gres)",
    "InvalidAccount": "for ever: no such account (runner.slurm.account)",
    "InvalidQOS": "for ever: no such QOS (runner.slurm.qos)",
}
HELD_REASONS = {
    "JobHeldUser": "by its user",
    "JobHeldAdmin": "by an administrator, who may have to release it",
    "launch failed requeued held": "as its node could not start it",
    "job requeued in held state": "by who requeued it",
}
REASON_PREFIXES = {  # by how they begin; which of them it is, is kept
    "ReqNodeNotAvail": "for nodes that are down, drained or reserved",
    "Nodes required for job": "for nodes that are down, drained or reserved",
    "QOS": "a limit of its QOS is reached",
    "Assoc": "a limit of its user or account is reached",
    "MaxJobs": "a limit on jobs is reached",
}
NODES = 4  # nodes that are named; others are counted


def duration(seconds: float) -> str:
    """A length of time, to two figures or so.

    >>> [duration(s) for s in (0.2, 45, 754, 12000, 200000)]
    ['0.2 s', '45 s', '13 min', '3 h 20 min', '2 d 8 h']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < MINUTE - 0.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / MINUTE)
    if minutes < 60:
        return f"{minutes} min"
    if seconds < DAY:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / HOUR)
    return f"{hours // 24} d {hours % 24} h"


def plural(count: int, noun: str) -> str:
    """So many of something.

    >>> plural(1, "cell"), plural(2880, "cell")
    ('1 cell', '2,880 cells')
    """
    return f"{count:,} {noun}" + "s" * (count != 1)


def stopwatch(seconds: float) -> str:
    """A time that runs.

    >>> [stopwatch(s) for s in (5.7, 83, 3725)]
    ['0:05', '1:23', '1:02:05']
    """
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def rate(cells_per_minute: float) -> str:
    """A rate, in cells a minute or, where those are few, an hour.

    >>> rate(312.4), rate(2.25), rate(0.2)
    ('312 cells/min', '2.2 cells/min', '12 cells/h')
    """
    if cells_per_minute >= 10:
        return f"{cells_per_minute:,.0f} cells/min"
    if cells_per_minute >= 1:
        return f"{cells_per_minute:.1f} cells/min"
    return f"{60 * cells_per_minute:.2g} cells/h"


def clock(when: datetime, now: datetime) -> str:
    """A time of day, with its day where that is not today.

    >>> now = datetime(2025, 3, 7, 22, 10)
    >>> clock(datetime(2025, 3, 7, 23, 5), now), clock(datetime(2025, 3, 8, 1, 30), now)
    ('23:05', 'Sat 01:30')
    >>> clock(datetime(2025, 3, 20, 1, 30), now)
    '2025-03-20 01:30'
    """
    if when.date() == now.date():
        return f"{when:%H:%M}"
    if 0 < (when.date() - now.date()).days < 7:
        return f"{when:%a %H:%M}"
    return f"{when:%Y-%m-%d %H:%M}"


def reason_text(reason: str) -> str:
    """Explain why a job waits or is held; a reason not known here is returned as it is.

    Examples
    --------
    >>> reason_text("Resources")
    'until nodes are free'
    >>> reason_text("QOSMaxJobsPerUserLimit")
    'a limit of its QOS is reached (QOSMaxJobsPerUserLimit)'
    >>> reason_text("FrontEndDown")
    'FrontEndDown'
    """
    if reason in REASONS | HELD_REASONS:
        return (REASONS | HELD_REASONS)[reason]
    for beginning, words in REASON_PREFIXES.items():
        if reason.startswith(beginning):
            return f"{words} ({reason})"
    return reason


def standing(status: Status) -> str:
    """Return a sweep's state, and who runs it."""
    launcher = status.launcher
    by = "" if launcher is None else f"process {launcher.pid} on {launcher.host}"
    if status.state == "finished":
        return "finished"
    at_work = launcher is not None and launcher.at_work
    if status.jobs is not None and status.jobs.under_way and not at_work:
        return f"{status.state} on Slurm; the same command waits for it"
    if status.state == "running":
        if launcher is None or not at_work:
            return "workers run, but no launcher"
        sign = f" (last sign {duration(launcher.heard)} ago)" if launcher.alive is None else ""
        return f"running: {by}{sign}"
    gone = "nobody runs it" if launcher is None else f"{by} is dead"
    return f"stopped: {gone}; the same command goes on"


def pacing(status: Status) -> str:
    """Rate, time so far, and expected end; nothing where no rate is known."""
    if status.state != "running":
        return ""
    words = [] if status.per_minute is None else [rate(status.per_minute)]
    ended = not (status.counts["running"] or status.counts["missing"])
    took = duration(status.elapsed)
    words.append(f"in {took}" if ended else f"{took} so far")
    if not ended and status.left is not None and status.left > 0:
        now = datetime.now()
        end = clock(now + timedelta(seconds=status.left), now)
        words.append(f"about {duration(status.left)} left (until {end})")
    return ", ".join(words)


def tally(status: Status) -> Iterator[tuple[str, int]]:
    """Cells by outcome, the most frequent first; then those that have none."""
    yield from status.outcomes.items()
    running, missing = status.counts["running"], status.counts["missing"]
    lost = status.cells - sum(status.outcomes.values()) - running - missing
    rest = {"running": running, "interrupted": lost, "missing": missing}
    yield from ((word, count) for word, count in rest.items() if count)


def log_line(status: Status) -> str:
    """Return a sweep's progress in one line."""
    finished = sum(status.outcomes.values())
    counts = ", ".join(f"{count:,} {word}" for word, count in tally(status) if word != "missing")
    told = [f"{finished:,} of {status.cells:,} cells" + (f" ({counts})" if counts else "")]
    if status.jobs is not None:
        told.append(in_short(status.jobs))
    return ", ".join(told + ([pacing(status)] if pacing(status) else []))


def failure_line(failure: Failure, alike: int = 0) -> str:
    """A failure and its reason; `alike` is how many others there are of the kind."""
    said = f": {failure.said}" if failure.said else ""
    more = f", and {alike} alike" if alike else ""
    where = "" if failure.traceback is None else f"; traceback: {failure.traceback}"
    return f"{failure.outcome} in {failure.label}{said}{more}{where}"


@dataclass(frozen=True)
class Line:
    """So many elements of an array, what they do, and where or why."""

    number: str
    word: str
    detail: str


def lines(array: JobArray, known: bool) -> Iterator[Line]:
    """Yield the lines on an array; `known`: from Slurm, not from the files alone."""
    if array.running:
        yield Line(str(array.running), "run" if known else "begun", _nodes(array.nodes))
    for number, wait in enumerate(array.waits):
        word = "wait" if known else "not begun"
        yield Line(str(wait.count), word, _wait(wait.reason, array.start if not number else None))
    for reason in dict.fromkeys(array.held.values()):
        count = sum(each == reason for each in array.held.values())
        yield Line(str(count), "held", reason_text(reason))
    if array.release is not None:
        yield Line("", "", f"to free them: {array.release}")
    if array.requeued:
        yield Line(f"{array.requeued}×", "requeued", "")
    if array.absent:
        yield Line(str(array.absent), "gone", "from Slurm's queue, before all their cells ended")


def _wait(reason: str, start: datetime | None) -> str:
    words = [reason_text(reason)] if reason else []
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
    return ", ".join([f"{plural(count, 'job')} {word}" for count, word in said[:1]] + words)


def warnings(jobs: Jobs) -> Iterator[str]:
    """Yield what somebody should see to, or know."""
    for array in jobs.arrays:
        if array.release is not None:
            why = " and ".join(dict.fromkeys(map(reason_text, array.held.values())))
            held = f"{len(array.held)} held {why}"
            yield f"job {array.job_id}: {held}; to free them: {array.release}"
    if jobs.note is not None:
        yield jobs.note
