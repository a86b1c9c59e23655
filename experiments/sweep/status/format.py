"""Text for the terminal: numbers, times, a sweep's state, its jobs and Slurm's reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from experiments.sweep.status.failures import Failure
from experiments.sweep.status.slurm import JobArray, Jobs
from experiments.sweep.status.status import Status

MINUTE, HOUR, DAY = 60, 3600, 86400
REASONS = {
    "None": "Slurm has not considered it yet",
    "Resources": "waiting for free nodes",
    "Priority": "behind jobs of higher priority",
    "JobArrayTaskLimit": "limit runner.slurm.array_parallelism reached",
    "BeginTime": "Slurm restarts it in a moment",
    "Cleaning": "waiting until its last run is cleaned up",
    "Dependency": "waiting for another job",
    "Licenses": "waiting for licenses",
    "Reservation": "waiting for its reservation to start",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "PartitionTimeLimit": "will never start: time limit exceeds the partition's "
    "(runner.slurm.time_minutes)",
    "PartitionNodeLimit": "will never start: its partition has no such nodes",
    "PartitionConfig": "will never start: its partition has no such nodes",
    "BadConstraints": "will never start: no node has the requested features "
    "(runner.slurm.constraint, gres)",
    "InvalidAccount": "will never start: unknown account (runner.slurm.account)",
    "InvalidQOS": "will never start: unknown QOS (runner.slurm.qos)",
}
HELD_REASONS = {
    "JobHeldUser": "by its user",
    "JobHeldAdmin": "by an administrator, who may have to release it",
    "launch failed requeued held": "because its node could not start it",
    "job requeued in held state": "by the user who requeued it",
}
REASON_PREFIXES = {  # the text is followed by the full reason
    "ReqNodeNotAvail": "waiting for nodes that are down, drained or reserved",
    "Nodes required for job": "waiting for nodes that are down, drained or reserved",
    "QOS": "limit of its QOS reached",
    "Assoc": "limit of its user or account reached",
    "MaxJobs": "job limit reached",
}
MAX_NODES = 4  # nodes listed by name; the others are counted


def duration(seconds: float) -> str:
    """Format a duration with about two significant digits.

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
    """Format a count with its noun.

    >>> plural(1, "cell"), plural(2880, "cell")
    ('1 cell', '2,880 cells')
    """
    return f"{count:,} {noun}" + "s" * (count != 1)


def stopwatch(seconds: float) -> str:
    """Format an elapsed time as minutes and seconds, or hours, minutes and seconds.

    >>> [stopwatch(s) for s in (5.7, 83, 3725)]
    ['0:05', '1:23', '1:02:05']
    """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def rate(cells_per_minute: float) -> str:
    """Format a rate per minute or, if it is below 1, per hour.

    >>> rate(312.4), rate(2.25), rate(0.2)
    ('312 cells/min', '2.2 cells/min', '12 cells/h')
    """
    if cells_per_minute >= 10:
        return f"{cells_per_minute:,.0f} cells/min"
    if cells_per_minute >= 1:
        return f"{cells_per_minute:.1f} cells/min"
    return f"{60 * cells_per_minute:.2g} cells/h"


def clock(when: datetime, now: datetime) -> str:
    """Format a time of day, with the day if it is not today.

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
    """Explain Slurm's reason why a job is pending or held; return an unknown reason unchanged.

    Examples
    --------
    >>> reason_text("Resources")
    'waiting for free nodes'
    >>> reason_text("QOSMaxJobsPerUserLimit")
    'limit of its QOS reached (QOSMaxJobsPerUserLimit)'
    >>> reason_text("FrontEndDown")
    'FrontEndDown'
    """
    if reason in REASONS | HELD_REASONS:
        return (REASONS | HELD_REASONS)[reason]
    for prefix, text in REASON_PREFIXES.items():
        if reason.startswith(prefix):
            return f"{text} ({reason})"
    return reason


def state_text(status: Status) -> str:
    """Return a sweep's state, its launcher, and how to resume it."""
    launcher = status.launcher
    process = "" if launcher is None else f"process {launcher.pid} on {launcher.host}"
    if status.state == "finished":
        return "finished"
    launcher_active = launcher is not None and launcher.is_active
    if status.jobs is not None and status.jobs.active and not launcher_active:
        return f"{status.state} on Slurm; run the sweep's command again to wait for its jobs"
    if status.state == "running":
        if launcher is None or not launcher_active:
            return "workers are running, but no launcher"
        age = duration(launcher.heartbeat_age)
        heartbeat = f" (last heartbeat {age} ago)" if launcher.alive is None else ""
        return f"running: {process}{heartbeat}"
    cause = "" if launcher is None else f" ({process} died)"
    return f"stopped{cause}; run the sweep's command again to resume"


def pace_text(status: Status) -> str:
    """Return rate, elapsed time and expected end of a running sweep; otherwise ""."""
    if status.state != "running":
        return ""
    parts = [] if status.cells_per_minute is None else [rate(status.cells_per_minute)]
    ended = not (status.counts["running"] or status.counts["missing"])
    elapsed = duration(status.elapsed)
    parts.append(f"in {elapsed}" if ended else f"{elapsed} elapsed")
    if not ended and status.seconds_left is not None and status.seconds_left > 0:
        now = datetime.now()
        end = clock(now + timedelta(seconds=status.seconds_left), now)
        jobs = status.jobs
        capacity = ""  # pending jobs shorten the time when they start
        if jobs is not None and jobs.total("n_pending"):
            capacity = f" with {plural(jobs.total('running'), 'job')}"
        parts.append(f"about {duration(status.seconds_left)} left{capacity} (until {end})")
    return ", ".join(parts)


def count_outcomes(status: Status) -> Iterator[tuple[str, int]]:
    """Yield the number of cells by outcome, the most frequent first, then those without outcome."""
    yield from status.outcomes.items()
    running, missing = status.counts["running"], status.counts["missing"]
    interrupted = status.cells - sum(status.outcomes.values()) - running - missing
    other = {"running": running, "interrupted": interrupted, "missing": missing}
    yield from ((state, count) for state, count in other.items() if count)


def log_line(status: Status) -> str:
    """Return a sweep's progress in one line."""
    counts = ", ".join(
        f"{count:,} {state}" for state, count in count_outcomes(status) if state != "missing"
    )
    parts = [f"{status.finished:,} of {status.cells:,} cells" + (f" ({counts})" if counts else "")]
    if status.jobs is not None:
        parts.append(jobs_summary(status.jobs))
    return ", ".join(parts + ([pace_text(status)] if pace_text(status) else []))


def failure_line(failure: Failure, n_similar: int = 0) -> str:
    """Return a failure and its reason in one line; `n_similar` others have the same reason."""
    reason = f": {failure.summary}" if failure.summary else ""
    similar = f", and {n_similar} similar" if n_similar else ""
    path = "" if failure.traceback is None else f"; traceback: {failure.traceback}"
    return f"{failure.outcome} in {failure.label}{reason}{similar}{path}"


@dataclass(frozen=True)
class JobLine:
    """A line of the job table: an array's tasks in one state, with their nodes or the reason."""

    count: str
    state: str
    detail: str


def job_lines(array: JobArray, answered: bool) -> Iterator[JobLine]:
    """Yield the table lines of an array; `answered` is False if Slurm did not answer."""
    if array.running:
        state = "running" if answered else "started"
        yield JobLine(str(array.running), state, _nodes_text(array.nodes))
    for number, pending in enumerate(array.pending):
        start = array.expected_start if number == 0 else None
        state = "pending" if answered else "not started"
        yield JobLine(str(pending.count), state, _pending_text(pending.reason, start))
    for reason in dict.fromkeys(array.held.values()):
        count = sum(held_reason == reason for held_reason in array.held.values())
        yield JobLine(str(count), "held", reason_text(reason))
    if array.release_command is not None:
        yield JobLine("", "", f"to release: {array.release_command}")
    if array.requeued:
        yield JobLine(f"{array.requeued}×", "requeued", "")
    if array.missing:
        detail = "left Slurm's queue before all their cells had ended"
        yield JobLine(str(array.missing), "missing", detail)


def _pending_text(reason: str, start: datetime | None) -> str:
    parts = [reason_text(reason)] if reason else []
    if start is not None and start > (now := datetime.now()):
        # Slurm assumes that running jobs use their whole time limit.
        parts.append(f"Slurm: by {clock(start, now)} at the latest")
    return "; ".join(parts)


def _nodes_text(nodes: Sequence[str]) -> str:
    names = ", ".join(nodes[:MAX_NODES])
    more = f" and {len(nodes) - MAX_NODES} more" if len(nodes) > MAX_NODES else ""
    return f"on {names}{more}" if nodes else ""


def jobs_summary(jobs: Jobs) -> str:
    """Return the number of a sweep's jobs by state.

    Examples
    --------
    >>> array = JobArray("t", "s.t", "7", unfinished=3, running=2, missing=1)
    >>> jobs_summary(Jobs((array,), running_leases=frozenset(["t-0", "t-1"])))
    '2 jobs running, 1 missing'
    >>> jobs_summary(Jobs((array,), note="Slurm doesn't answer"))
    '2 jobs started, 1 missing'
    """
    answered = jobs.running_leases is not None
    counts = {
        "running" if answered else "started": jobs.total("running"),
        "pending" if answered else "not started": jobs.total("n_pending"),
        "held": jobs.n_held,
        "missing": jobs.total("missing"),
    }
    nonzero = [(count, state) for state, count in counts.items() if count]
    first = [f"{plural(count, 'job')} {state}" for count, state in nonzero[:1]]
    return ", ".join(first + [f"{count} {state}" for count, state in nonzero[1:]])


def job_warnings(jobs: Jobs) -> Iterator[str]:
    """Yield warnings about held jobs, and Slurm's note."""
    for array in jobs.arrays:
        if array.release_command is not None:
            reasons = " and ".join(dict.fromkeys(map(reason_text, array.held.values())))
            held = f"{len(array.held)} held {reasons}"
            yield f"job {array.job_id}: {held}; to release: {array.release_command}"
    if jobs.note is not None:
        yield jobs.note
