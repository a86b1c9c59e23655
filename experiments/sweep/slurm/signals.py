"""Slurm's word to a job that its time is up: signals, to every process that the job runs."""

from __future__ import annotations

import signal

KINDS = (signal.SIGUSR2, signal.SIGTERM)  # `--signal`, and what comes before the kill


def put_off() -> None:
    """Let them wait until somebody passes them on; processes that start meanwhile hear none."""
    signal.pthread_sigmask(signal.SIG_BLOCK, KINDS)


def let_in() -> None:
    """What has come meanwhile comes now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, KINDS)
