"""Ctrl-C and SIGTERM are the launcher's to answer, and not while it starts processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KINDS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A launcher is told to stop. No `KeyboardInterrupt`, which a cell's own code may raise."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM raise `Interrupted`; more don't disturb the clearing up."""
    before = {kind: signal.signal(kind, _interrupt) for kind in KINDS}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _interrupt(*_: Any) -> None:
    for kind in KINDS:
        signal.signal(kind, signal.SIG_IGN)
    raise Interrupted


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM; processes that start here never get a Ctrl-C, from birth on.

    The mask is what those inherit. It can't keep interrupts from this process by itself: the signal
    then goes to a thread of some library, and Python answers it in the middle of what is held.
    """
    came: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = {kind: signal.signal(kind, lambda number, _: came.append(number)) for kind in KINDS}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if came:
        signal.raise_signal(came[0])
