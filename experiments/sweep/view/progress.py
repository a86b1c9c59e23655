"""How far a sweep is while it runs: a live screen on a terminal, plain lines in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console

from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.view.show import showing
from experiments.sweep.view.watch import Watch
from experiments.sweep.view.words import log_line

LOOK_EVERY = 1.0  # seconds: a look at ten thousand cells costs some 20 ms
SHARE = 0.1  # of the time, that looks may take: at thousands of jobs on a slow disk they are few
LONGEST = 10.0  # seconds between two of them, all the same


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
