"""Ctrl-C is the launcher's to answer, and not while it starts processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM; processes that start here never get a Ctrl-C, from birth on.

    The mask is what those inherit. It can't keep interrupts from this process by itself: the signal
    then goes to a thread of some library, and Python answers it in the middle of what is held.
    """
    came: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda number, _: came.append(number)) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if came:
        signal.raise_signal(came[0])
