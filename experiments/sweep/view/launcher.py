"""The process that runs a sweep, from the note it leaves in the sweep's folder."""

from __future__ import annotations

import time
from dataclasses import dataclass

from experiments.sweep.store.lock import FRESH, read_launcher
from experiments.sweep.store.paths import SweepFolder


@dataclass(frozen=True)
class Launcher:
    """Who runs a sweep.

    Attributes
    ----------
    alive
        None where it is on another host, and can't be known here.
    heard
        Seconds since it last gave a sign.
    """

    host: str
    pid: int
    alive: bool | None
    heard: float

    @property
    def at_work(self) -> bool:
        """Whether it runs, as far as can be told from here."""
        return self.heard < FRESH if self.alive is None else self.alive


def find_launcher(folder: SweepFolder) -> Launcher | None:
    """The launcher that has left its note; None where there is no note."""
    note = read_launcher(folder.launcher)
    if note is None:
        return None
    try:
        heard = age(folder.launcher.stat().st_mtime)
    except FileNotFoundError:  # it has ended just now
        return None
    return Launcher(note.host, note.pid, note.is_running(), heard)


def age(written: float) -> float:
    """Seconds since a file was written; a clock that has jumped back makes none younger than 0."""
    return max(0.0, time.time() - written)
