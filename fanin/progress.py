"""Expected cost and progress of long operations, printed to stderr.

An operation calls `show_progress`; functions that it calls report their phase with `set_phase`, and
its parts with `set_part`. Both do nothing outside an operation.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar

DELAY = 2.0  # seconds before the bar is shown, and expected seconds from which the cost is printed
INTERVAL = 0.2  # seconds between updates of the bar
# Seconds after which the first line of progress is printed without a terminal. Each further line
# follows after twice that time, but at most after `LAST_INTERVAL`.
FIRST_LINE = 5.0
LAST_INTERVAL = 60.0
MAX_SHARE = 0.95  # displayed share of a phase that takes longer than expected


@dataclass(frozen=True)
class Phase:
    """Part of an operation, with its expected time in seconds."""

    name: str
    seconds: float


@dataclass
class _State:
    """Current phase of an operation. A thread displays it while the operation runs."""

    phases: Sequence[Phase]
    index: int = 0
    text: str = ""
    share: float | None = None  # completed share of the phase; None estimates it from the time
    parts: dict[str, str] = field(default_factory=dict)  # parts of the phase, by unit
    started: float = field(default_factory=monotonic)

    def enter(self, name: str, done: int, total: int) -> None:
        later = range(self.index, len(self.phases))
        is_new = not self.text.startswith(name) or total == 0
        if is_new:
            # A phase may occur several times, as the theories do in `explain`.
            start = self.index + (1 if self.text else 0)
            known = [i for i in later if i >= start and self._is(i, name)]
            self.index = known[0] if known else self.index
            self.started = monotonic()
            self.share = None if known else 1.0  # without an expected time, it adds nothing
        self.text = f"{name} {done + 1} of {total}" if total else name
        if total:
            self.share = done / total
        self.parts = {}

    @property
    def description(self) -> str:
        """Phase and its parts, such as `theory field, layer 3 of 8`."""
        return ", ".join([self.text, *self.parts.values()])

    def _is(self, index: int, name: str) -> bool:
        return self.phases[index].name == name

    @property
    def seconds(self) -> float:
        """Expected time of all phases."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def completed(self) -> float:
        """Expected time of the finished phases and of the finished share of this phase."""
        if not self.phases:
            return 0.0
        phase = self.phases[self.index]
        elapsed = monotonic() - self.started
        share = elapsed / phase.seconds if phase.seconds > 0 else 1.0
        share = min(share, MAX_SHARE) if self.share is None else self.share
        return sum(p.seconds for p in self.phases[: self.index]) + share * phase.seconds


_current: ContextVar[_State | None] = ContextVar("fanin_progress", default=None)


def set_phase(name: str, done: int = 0, total: int = 0) -> None:
    """Report the phase that begins, and optionally how many of its parts are done."""
    state = _current.get()
    if state is not None:
        state.enter(name, done, total)


def set_part(unit: str, done: int, total: int, *, is_share: bool = False) -> None:
    """Report the part of the phase that begins.

    Parameters
    ----------
    unit
        Kind of the part, such as `layer`.
    done, total
        Number of finished parts, and of all.
    is_share
        True if `done / total` is the finished share of the phase.
    """
    state = _current.get()
    if state is not None:
        state.parts = {**state.parts, unit: f"{unit} {done + 1} of {total}"}
        if is_share:
            state.share = done / total


@contextmanager
def show_progress(
    name: str, phases: Sequence[Phase] = (), *, details: str = "", quiet: bool = False
) -> Iterator[None]:
    """Print the expected time of an operation, then its progress.

    Both go to stderr. The time is printed if it is at least two seconds. After two seconds a
    terminal shows a bar; without a terminal, a line is printed after 5, 10, 20, 40, 80, 140, ...
    seconds.

    Parameters
    ----------
    name
        Name of the operation, such as `certify`.
    phases
        Phases in the order in which they run. Empty if the expected time is unknown.
    details
        Description of the work, such as `8 images, 4 layers`.
    quiet
        Print nothing.
    """
    if quiet or _current.get() is not None:  # part of another operation
        yield
        return
    state = _State(phases)
    is_terminal = sys.stderr.isatty()
    if phases and state.seconds >= DELAY:
        print(f"{name}: {details}; expected time: {format_seconds(state.seconds)}", file=sys.stderr)
    token = _current.set(state)
    finished = threading.Event()
    display = _show_bar if is_terminal else _print_lines
    thread = threading.Thread(target=display, args=(name, state, finished), daemon=True)
    thread.start()
    try:
        yield
    finally:
        _current.reset(token)
        finished.set()
        thread.join()


def format_seconds(seconds: float) -> str:
    """Format an estimated time with one significant digit.

    >>> format_seconds(23.4), format_seconds(400), format_seconds(0.3)
    ('about 20 s', 'about 7 min', 'below 1 s')
    """
    if seconds < 1:
        return "below 1 s"
    if seconds < 100:
        return f"about {float(f'{seconds:.1g}'):.0f} s"
    if seconds < 5400:
        return f"about {float(f'{seconds / 60:.1g}'):.0f} min"
    return f"about {float(f'{seconds / 3600:.1g}'):.0f} h"


def _print_lines(name: str, state: _State, finished: threading.Event) -> None:
    stream, elapsed, wait = sys.stderr, 0.0, FIRST_LINE
    while not finished.wait(wait):
        elapsed += wait
        phase = f"; {state.description}" if state.text else ""
        print(f"{name}: {elapsed:.0f} s so far{phase}", file=stream, flush=True)
        wait = min(elapsed, LAST_INTERVAL)


def _show_bar(name: str, state: _State, finished: threading.Event) -> None:
    start = monotonic()
    if finished.wait(DELAY):
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[elapsed]}"))
    console = Console(stderr=True)
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=state.seconds or None, elapsed="")
        while True:
            elapsed = f"{monotonic() - start:.0f} s"
            description = f"{name}: {state.description}" if state.text else name
            bar.update(task, description=description, completed=state.completed, elapsed=elapsed)
            if finished.wait(INTERVAL):
                return
