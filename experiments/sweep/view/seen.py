"""What a sweep's files say at one moment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from experiments.sweep.store.journal import Writer


@dataclass(frozen=True)
class Result:
    """How a cell ended; of one whose pack has not, the journal tells only the first four.

    Attributes
    ----------
    fresh
        Whether it ended in the sweep's present run.
    order
        How many results were seen before it.
    """

    outcome: str
    attempt: int
    fresh: bool
    order: int
    seconds: float = math.nan
    reason: str | None = None
    engine: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class Begun:
    """A cell that has begun and not ended.

    Attributes
    ----------
    share
        Of its steps, how many are done: 0 to 1.
    since
        When it was first seen, by the monotonic clock.
    from_start
        Whether that was when it began.
    """

    cell_id: str
    attempt: int
    share: float
    since: float
    from_start: bool


@dataclass(frozen=True)
class OpenJournal:
    """A journal whose pack has not ended.

    Attributes
    ----------
    grew
        When it last did, by the file system's clock.
    element
        The folder that it lies in, of a cluster's job; None: it is no job's.
    over
        Whether somebody has taken that folder: its writer's turn is over, be it alive.
    """

    writer: Writer | None
    grew: float
    begun: tuple[Begun, ...]
    element: str | None = None
    over: bool = False


@dataclass(frozen=True)
class Seen:
    """Latest results by cell, journals of packs that have not ended, and words for people.

    Attributes
    ----------
    notes
        What workers noted.
    faults
        Files that can't be read.
    changed
        When the newest file was written, by the file system's clock.
    """

    results: Mapping[str, Result]
    journals: tuple[OpenJournal, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...]
    changed: float | None
