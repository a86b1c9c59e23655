"""Slurm's own commands, asked about this cluster."""

from __future__ import annotations

import subprocess

from .errors import ClusterError
from .layout import Layout
from .services import environment
from .waiting import scaled


def ask(layout: Layout, *command: str, seconds: float = 10) -> str | None:
    """Return what a client command prints; None if it fails or takes too long."""
    try:
        return tell(layout, *command, seconds=seconds)
    except ClusterError:
        return None


def tell(layout: Layout, *command: str, seconds: float = 30) -> str:
    """Run a client command that has to succeed, and return what it prints."""
    try:
        done = subprocess.run(
            command,
            env=environment(layout),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=scaled(seconds),
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{' '.join(command)}: no answer in {seconds:.0f} s") from None
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
