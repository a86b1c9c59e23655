"""One sweep, looked at again and again."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

from experiments.sweep.slurm.submission import open_submissions
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.view.assess import assess
from experiments.sweep.view.enquiry import Answer, Enquiry
from experiments.sweep.view.find_jobs import jobs_of
from experiments.sweep.view.follow import Follower
from experiments.sweep.view.jobs import Jobs
from experiments.sweep.view.launcher import Launcher, find_launcher
from experiments.sweep.view.planned import read_planned
from experiments.sweep.view.status import Scope, Status
from fanin.errors import FaninError


class Watch:
    """A sweep's status, as often as one asks.

    Parameters
    ----------
    folder
        The sweep's.
    run
        The cells of a run that this process begins now; None: whatever is planned there, by
        whomever.
    answer
        What Slurm has said of the sweep's jobs; None: it is asked.
    """

    def __init__(
        self,
        folder: SweepFolder,
        run: Iterable[str] | None = None,
        answer: Answer | None = None,
    ) -> None:
        self._folder = folder
        self._run = None if run is None else Scope(frozenset(run), fresh=True)
        self._began = time.monotonic()
        self._answer = answer
        self._enquiry = Enquiry(waits=run is None)  # what is launched is never held up
        self._read_plan()

    def look(self, last: int | None = None) -> Status:
        """How the sweep stands; `last` is how many failures to describe (None: all)."""
        if self._run is None and self._launched != _written(self._folder.provenance):
            self._read_plan()  # it was launched anew
        jobs = self._jobs()
        seen = self._follower.look()
        if self._run is not None:
            launcher: Launcher | None = Launcher(platform.node(), os.getpid(), True, 0.0)
            elapsed, scope = time.monotonic() - self._began, self._run
        else:
            launcher = find_launcher(self._folder)
            at_work = (launcher is not None and launcher.at_work) or jobs is not None
            elapsed = self._elapsed(seen.changed, at_work)
            begun = {each.cell_id for journal in seen.journals for each in journal.begun}
            scope = Scope(self._planned.labels.keys() | seen.results.keys() | begun)
        return assess(self._folder, self._planned, seen, launcher, elapsed, scope, last, jobs)

    def _jobs(self) -> Jobs | None:
        try:
            there = open_submissions(self._folder)
        except FaninError as error:
            return Jobs((), note=str(error))
        answer = self._answer or self._enquiry.look([each.job_name for each in there])
        return jobs_of(there, answer)

    def _elapsed(self, changed: float | None, at_work: bool) -> float:
        if self._launched is None:
            return 0.0
        # Never before the newest file: the clock may have jumped back.
        until = max(time.time(), changed or 0.0) if at_work else changed
        return 0.0 if until is None else max(0.0, until - self._launched)

    def _read_plan(self) -> None:
        self._launched = _written(self._folder.provenance)
        self._planned = read_planned(self._folder)
        since = None if self._run is not None else self._launched
        self._follower = Follower(self._folder, since)


def _written(path: Path) -> float | None:
    """When a file was written, by the file system's clock; None where there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
