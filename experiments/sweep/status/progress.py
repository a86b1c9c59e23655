"""Progress of a running sweep: a live screen on a terminal, plain lines in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from experiments.sweep.status.failures import Failure
from experiments.sweep.status.format import failure_line, job_warnings, log_line
from experiments.sweep.status.reader import StatusReader
from experiments.sweep.status.screen import screen
from experiments.sweep.status.status import Status
from experiments.sweep.types import Heartbeat

StatusDisplay = Callable[[Status], None]

LOG_SECONDS = 10.0  # between two progress lines
SCREEN_FAILURES = 3  # failures on the screen
LOG_FAILURES = 20  # failures listed in a log that happened between two reads
MIN_READ_SECONDS = 1.0  # between two reads; a read of ten thousand cells takes about 20 ms
READ_SHARE = 0.1  # maximum fraction of the time spent on reading, which may be slow on a busy disk
MAX_READ_SECONDS = 10.0  # upper limit of the interval that READ_SHARE leads to


@contextmanager
def status_display(console: Console) -> Iterator[tuple[StatusDisplay, int]]:
    """Display a sweep's status repeatedly; on a terminal the screen is removed at the end.

    Yields
    ------
    callable, int
        Function to call with each new status, and how many failures the status should describe.
    """
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:

            def show(status: Status) -> None:
                live.update(screen(status, console.height), refresh=True)

            yield show, SCREEN_FAILURES
    else:
        yield LogDisplay(console), LOG_FAILURES


class LogDisplay:
    """Printer of new failures and warnings, and regularly of the progress."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last_progress = time.monotonic()
        self._printed_failures: set[tuple[str, int]] = set()
        self._printed_warnings: set[str] = set()

    def __call__(self, status: Status) -> None:
        """Print everything that is new."""
        slurm_warnings = [] if status.jobs is None else job_warnings(status.jobs)
        for warning in [*status.warnings, *slurm_warnings]:
            if warning not in self._printed_warnings:
                self._printed_warnings.add(warning)
                self._print(f"warning: {warning}")
        new = [f for f in status.failures if (f.cell_id, f.attempt) not in self._printed_failures]
        self._printed_failures |= {(failure.cell_id, failure.attempt) for failure in new}
        groups: dict[tuple[str, str], list[Failure]] = {}
        for failure in new:
            groups.setdefault((failure.outcome, failure.summary), []).append(failure)
        for group in groups.values():
            self._print(failure_line(group[0], len(group) - 1))
        if time.monotonic() - self._last_progress >= LOG_SECONDS:
            self._last_progress = time.monotonic()
            self._print(log_line(status))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def read_interval(took: float, minimum: float = MIN_READ_SECONDS) -> float:
    """Return the seconds until the next read, after a read that took `took` seconds.

    Examples
    --------
    >>> [read_interval(took) for took in (0.02, 0.5, 60.0)]
    [1.0, 5.0, 10.0]
    """
    return max(minimum, min(took / READ_SHARE, MAX_READ_SECONDS))


@contextmanager
def show_progress(reader: StatusReader, console: Console) -> Iterator[Heartbeat]:
    """Show the progress of a run that starts now; yield the function to call regularly.

    Parameters
    ----------
    reader
        Reader of the status of the cells that this run is to finish.
    console
        Console to print to.
    """
    next_read = -math.inf
    with status_display(console) as (show, n_failures):

        def update() -> None:
            nonlocal next_read
            if (start := time.monotonic()) >= next_read:
                show(reader.read(n_failures))
                next_read = time.monotonic() + read_interval(time.monotonic() - start)

        update()
        try:
            yield update
        finally:
            show(reader.read(n_failures))  # includes the failures of the last moment


def print_progress(reader: StatusReader, console: Console) -> None:
    """Print the progress in one line."""
    console.print(log_line(reader.read(0)), highlight=False, soft_wrap=True)
