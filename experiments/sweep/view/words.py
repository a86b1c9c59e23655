"""A sweep's status in words, for a screen and for a log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from experiments.sweep.view.failures import Failure
from experiments.sweep.view.job_words import in_short
from experiments.sweep.view.status import Status
from experiments.sweep.view.units import clock, duration, rate


def standing(status: Status) -> str:
    """What a sweep is at, and who runs it."""
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
    """How far a sweep is, in one line."""
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
