"""Progress of a sweep while it runs: a live screen on a terminal, plain lines in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from experiments.sweep.status.format import failure_line, log_line
from experiments.sweep.status.format import warnings as job_warnings
from experiments.sweep.status.screen import screen
from experiments.sweep.status.status import Failure, Status
from experiments.sweep.status.watch import Watch
from experiments.sweep.store.paths import SweepFolder

Show = Callable[[Status], None]

LOG_EVERY = 10.0  # seconds between two lines on how far a sweep is
ON_SCREEN = 3  # failures that a screen shows
IN_LOG = 20  # failures that a log names of those that come at once
LOOK_EVERY = 1.0  # seconds: a look at ten thousand cells costs some 20 ms
SHARE = 0.1  # of the time, that looks may take: at thousands of jobs on a slow disk they are few
LONGEST = 10.0  # seconds between two of them, all the same


@contextmanager
def showing(console: Console) -> Iterator[tuple[Show, int]]:
    """Show a sweep's status again and again; on a terminal nothing of that stays.

    Yields
    ------
    callable, int
        What to call with each new status, and how many failures that should describe.
    """
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:

            def show(status: Status) -> None:
                live.update(screen(status, console.height), refresh=True)

            yield show, ON_SCREEN
    else:
        yield Log(console), IN_LOG


class Log:
    """Prints failures and warnings as they come, and now and then how far the sweep is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed = time.monotonic()
        self._told: set[tuple[str, int]] = set()
        self._warned: set[str] = set()

    def __call__(self, status: Status) -> None:
        """Print what is new."""
        notes = [] if status.jobs is None else job_warnings(status.jobs)
        for warning in [*status.warnings, *notes]:
            if warning not in self._warned:
                self._warned.add(warning)
                self._print(f"warning: {warning}")
        new = [each for each in status.failures if (each.cell_id, each.attempt) not in self._told]
        self._told |= {(each.cell_id, each.attempt) for each in new}
        kinds: dict[tuple[str, str], list[Failure]] = {}
        for failure in new:
            kinds.setdefault((failure.outcome, failure.said), []).append(failure)
        for alike in kinds.values():
            self._print(failure_line(alike[0], len(alike) - 1))
        if time.monotonic() - self._printed >= LOG_EVERY:
            self._printed = time.monotonic()
            self._print(log_line(status))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def pause(took: float, least: float = LOOK_EVERY) -> float:
    """Seconds until the next look, after one that took so long.

    Examples
    --------
    >>> [pause(took) for took in (0.02, 0.5, 60.0)]
    [1.0, 5.0, 10.0]
    """
    return max(least, min(took / SHARE, LONGEST))


@contextmanager
def shown(
    folder: SweepFolder, cells: Iterable[str], console: Console
) -> Iterator[Callable[[], None]]:
    """Show the progress of a run that begins now; yields the function to call now and then.

    Parameters
    ----------
    folder
        The sweep's, with its plan frozen.
    cells
        Ids of the cells that this run is to finish.
    """
    watch, due = Watch(folder, cells), -math.inf
    try:
        with showing(console) as (show, failures):

            def tick() -> None:
                nonlocal due
                if (began := time.monotonic()) >= due:
                    show(watch.look(failures))
                    due = time.monotonic() + pause(time.monotonic() - began)

            tick()
            try:
                yield tick
            finally:
                show(watch.look(failures))  # failures of the last moment are told too
    finally:
        console.print(log_line(watch.look(0)), highlight=False, soft_wrap=True)
