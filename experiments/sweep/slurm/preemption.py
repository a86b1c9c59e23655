"""Handling of the signals by which Slurm announces the end of a job."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from experiments.sweep.interrupts import Interrupted
from experiments.sweep.types import STOP_FILE

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)  # `--signal`, and what Slurm sends before SIGKILL
HEARTBEAT_SECONDS = 5.0  # between two heartbeats


def block_signals() -> None:
    """Block the signals until `unblock_signals`; child processes inherit the mask."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def unblock_signals() -> None:
    """Unblock the signals and deliver the pending ones."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class PreemptionHandler:
    """Handler of the signals that announce the job's end: it stops the workers.

    At every training step a worker checks for the file `stop` in the writer folder. When the file
    is there, the worker saves a checkpoint and ends its pack.

    Parameters
    ----------
    writer_dir
        Writer folder of this process in the lease.
    grace
        Seconds that workers have to save their state.
    """

    def __init__(self, writer_dir: Path, grace: float) -> None:
        self.received: signal.Signals | None = None
        self._writer_dir, self._grace = writer_dir, grace
        self._stopped_at: float | None = None
        self._last_heartbeat = time.monotonic()
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        unblock_signals()

    def _on_signal(self, number: int, _: object) -> None:
        # Keep the first signal: a preemption sends SIGUSR2 and then SIGTERM.
        self.received = self.received or signal.Signals(number)

    def heartbeat(self) -> None:
        """Touch the writer folder, and stop the workers after a signal; call this regularly.

        Raises
        ------
        Interrupted
            The workers' grace period is over.
        """
        if time.monotonic() - self._last_heartbeat > HEARTBEAT_SECONDS:
            self._last_heartbeat = time.monotonic()
            with suppress(OSError):  # the lease is lost, or the file system is slow to answer
                os.utime(self._writer_dir)
        if self.received is None:
            return
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            print(f"Received {self.received.name}: workers save their checkpoints.", flush=True)
            with suppress(OSError):  # the lease is lost, or the disk is full: the grace period ends
                (self._writer_dir / STOP_FILE).touch()
        elif time.monotonic() - self._stopped_at > self._grace:
            raise Interrupted
