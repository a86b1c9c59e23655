"""Ctrl-C, SIGTERM and SIGHUP are the launcher's to answer, and not while it starts processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)  # to all of its processes: Ctrl-C, and its end
KINDS = (*TERMINAL_SIGNALS, signal.SIGTERM)


class Interrupted(BaseException):
    """A launcher is told to stop. No `KeyboardInterrupt`, which a cell's own code may raise."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first of `KINDS` raise `Interrupted`; more of them don't disturb the clearing up.

    What this process was started to ignore (`nohup`) it goes on ignoring.
    """
    before = {kind: signal.signal(kind, _interrupt) for kind in _heard()}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _heard() -> list[signal.Signals]:
    return [kind for kind in KINDS if signal.getsignal(kind) != signal.SIG_IGN]


def _interrupt(*_: Any) -> None:
    for kind in KINDS:
        signal.signal(kind, signal.SIG_IGN)
    raise Interrupted


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Put off `KINDS`; processes that start here get none of them from a terminal, from birth on.

    The mask is what those inherit. It can't keep interrupts from this process by itself: the signal
    then goes to a thread of some library, and Python answers it in the middle of what is held.
    """
    came: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    before = {kind: signal.signal(kind, lambda number, _: came.append(number)) for kind in _heard()}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if came:
        signal.raise_signal(came[0])
