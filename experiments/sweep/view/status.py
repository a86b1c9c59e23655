"""How a sweep stands: everything that any view of it shows."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Literal

from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.view.failures import Failure
from experiments.sweep.view.jobs import Jobs
from experiments.sweep.view.launcher import Launcher

State = Literal["running", "queued", "stopped", "finished"]


@dataclass(frozen=True)
class Scope:
    """Which cells count.

    Attributes
    ----------
    cells
        By id.
    fresh
        What became of them before the sweep's present run doesn't count.
    """

    cells: Set[str]
    fresh: bool = False


@dataclass(frozen=True)
class RunningCell:
    """A cell in progress: the share of its steps that is done, and how long it has run.

    `at_least`: it had begun before anybody looked, so it has run longer than `seconds`.
    """

    cell_id: str
    label: str
    share: float
    seconds: float
    at_least: bool


@dataclass(frozen=True)
class Worker:
    """A process at work, and seconds since it last wrote."""

    host: str
    pid: int
    device: str | None
    heard: float
    cells: tuple[RunningCell, ...]


@dataclass(frozen=True)
class Status:
    """Where a sweep stands.

    Attributes
    ----------
    counts
        Cells by state: done, failed, interrupted, running, missing; every cell has one.
    outcomes
        Cells by outcome, of those that have one and don't run again just now.
    elapsed
        Seconds of this run of the sweep.
    per_minute, left
        Cells a minute in this run, and seconds to its end; None where not known, or not running.
    failures
        In the order in which they came.
    engines, codes
        Cells by engine, and by version of the code.
    warnings
        What somebody should know.
    changed
        When the newest file was written (seconds since 1970); None: nothing was.
    jobs
        A cluster's, that have cells in hand; None: there are none.
    """

    name: str
    folder: SweepFolder
    state: State
    cells: int
    counts: Mapping[str, int]
    outcomes: Mapping[str, int]
    launcher: Launcher | None
    workers: tuple[Worker, ...]
    elapsed: float
    per_minute: float | None
    left: float | None
    failures: tuple[Failure, ...]
    engines: Mapping[str, int]
    codes: Mapping[str, int]
    warnings: tuple[str, ...]
    changed: float | None
    jobs: Jobs | None = None
