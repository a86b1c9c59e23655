"""Preemption: the signals by which Slurm announces a job's end, passed on to its workers."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from experiments.sweep.interrupts import Interrupted
from experiments.sweep.types import STOP

KINDS = (signal.SIGUSR2, signal.SIGTERM)  # `--signal`, and what comes before the kill
STAMP_EVERY = 5.0  # seconds between two signs of life


def block_signals() -> None:
    """Hold the signals back until `unblock_signals`; child processes inherit that."""
    signal.pthread_sigmask(signal.SIG_BLOCK, KINDS)


def unblock_signals() -> None:
    """Deliver the signals that have come meanwhile."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, KINDS)


class PreemptionHandler:
    """Handler of the signals that announce the job's end: it stops the workers, with some grace.

    A worker looks for the file `stop` in its turn's folder at every step of a network; it keeps
    what it is at and ends its pack.

    Parameters
    ----------
    turn
        That folder.
    grace
        Seconds that workers have for it.
    """

    def __init__(self, turn: Path, grace: float) -> None:
        self.came: signal.Signals | None = None
        self._turn, self._grace = turn, grace
        self._told: float | None = None
        self._stamped = time.monotonic()
        for kind in KINDS:
            signal.signal(kind, self._hear)
        unblock_signals()

    def _hear(self, number: int, _: object) -> None:
        # What comes first counts: a preemption sends the one after the other.
        self.came = self.came or signal.Signals(number)

    def tick(self) -> None:
        """Give a sign of life, and pass the word on; to be called now and then.

        Raises
        ------
        Interrupted
            Workers have had their time.
        """
        if time.monotonic() - self._stamped > STAMP_EVERY:
            self._stamped = time.monotonic()
            with suppress(OSError):  # somebody else has taken over, or the disk is slow to answer
                os.utime(self._turn)
        if self.came is None:
            return
        if self._told is None:
            self._told = time.monotonic()
            print(f"{self.came.name}: workers keep what they are at", flush=True)
            (self._turn / STOP).touch()
        elif time.monotonic() - self._told > self._grace:
            raise Interrupted
