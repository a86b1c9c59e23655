"""SIGINT, SIGTERM and SIGHUP: handled by the launcher, deferred while it starts processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A terminal sends these to all of its processes: SIGINT on Ctrl-C, SIGHUP when it is closed.
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)
STOP_SIGNALS = (*TERMINAL_SIGNALS, signal.SIGTERM)


class Interrupted(BaseException):
    """The launcher received a stop signal.

    Not a `KeyboardInterrupt`, which a cell's own code may raise. `number` is the signal; None in
    a Slurm job, whose grace period is over.
    """

    def __init__(self, number: int | None = None) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` at the first of `STOP_SIGNALS`, and ignore further ones.

    Signals that this process was started to ignore (`nohup`) stay ignored.
    """
    previous = {number: signal.signal(number, _interrupt) for number in _signals_not_ignored()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _signals_not_ignored() -> list[signal.Signals]:
    return [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def _interrupt(received: int, _: Any) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise Interrupted(received)


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Defer `STOP_SIGNALS` to the end of the block.

    `TERMINAL_SIGNALS` stay blocked in processes that are started in the block, because they inherit
    the signal mask. The mask alone does not protect this process: a thread of some library would
    receive the signal, and Python would handle it within the block.
    """
    received: list[int] = []
    previous: dict[signal.Signals, Any] = {}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        for number in _signals_not_ignored():
            previous[number] = signal.signal(number, lambda number, _: received.append(number))
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # pending signals are received now
        for number, handler in previous.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
