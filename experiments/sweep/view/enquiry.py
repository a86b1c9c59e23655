"""Slurm's queue, asked beside everything else: one that doesn't answer holds nothing up."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from experiments.sweep.slurm.calls import SlurmError
from experiments.sweep.slurm.queue import Key, Waiting, waiting

EVERY = 5.0  # seconds between two questions
SHARE = 0.05  # of the time, that may be spent on answers: where those are slow, they are few
PATIENCE = 5.0  # seconds after which nobody waits for an answer any more
SILENT = "Slurm doesn't answer; this is from the files"


@dataclass(frozen=True)
class Answer:
    """What Slurm knows of some jobs.

    Attributes
    ----------
    elements
        Those that wait or run; None where it has not said.
    names
        The jobs that it was asked about.
    note
        Why it has not said, for people.
    """

    elements: Mapping[Key, Waiting] | None = None
    names: frozenset[str] = frozenset()
    note: str | None = None


class Enquiry:
    """Asks squeue now and then, in a thread of its own.

    Parameters
    ----------
    waits
        Whether the first look waits for an answer.
    """

    def __init__(self, waits: bool = True) -> None:
        self._waits = waits
        self._answer = Answer()
        self._asked = self._due = 0.0
        self._thread: threading.Thread | None = None

    def look(self, names: Collection[str]) -> Answer:
        """The latest answer, some seconds old at most."""
        if not names:
            return Answer()
        if shutil.which("squeue") is None:
            return Answer(note="there is no squeue on this host; this is from the files")
        if self._thread is None:
            thread = self._start(names)
            if self._waits:
                thread.join(PATIENCE)
        elif not self._thread.is_alive() and time.monotonic() >= self._due:
            thread = self._start(names)
        else:
            thread = self._thread
        late = thread.is_alive() and time.monotonic() - self._asked >= PATIENCE
        return Answer(note=SILENT) if late else self._answer

    def _start(self, names: Collection[str]) -> threading.Thread:
        self._asked = time.monotonic()
        # Nobody waits for it at the process's end.
        self._thread = threading.Thread(target=self._ask, args=[frozenset(names)], daemon=True)
        self._thread.start()
        return self._thread

    def _ask(self, names: frozenset[str]) -> None:
        try:
            self._answer = Answer(waiting(names), names)
            took = time.monotonic() - self._asked
            self._due = self._asked + max(EVERY, took / SHARE)
        except SlurmError as error:
            self._answer = Answer(note=f"{SILENT} ({error})")
            self._due = time.monotonic() + EVERY
