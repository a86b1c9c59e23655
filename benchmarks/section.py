"""A section of the benchmarks: its cases, and the tables, sentence and plot of its results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch

from benchmarks.page import Table
from experiments.sweep.worker.limits import die_with_parent, prepare_torch

Mode = Literal["tiny", "quick", "full"]
Record = dict[str, Any]
"""Measurements of one case, as plain JSON types. Times are lists with one entry per round."""
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """One measurement of a section.

    Parameters
    ----------
    name
        Name for the progress line.
    seconds
        Expected duration on a quiet machine with two cores.
    measure
        Takes the measurement.
    """

    name: str
    seconds: float
    measure: Callable[[], Record]


class Workers:
    """Processes with one thread each, one per competitor, so that they do not share settings.

    fanin's engines, for example, change the settings of malloc for their whole process.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._pools: dict[str, ProcessPoolExecutor] = {}

    def call(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the process `name`, which is started if it does not run yet.

        The process `fanin` has the settings of fanin's workers, the others torch's defaults.
        """
        if name not in self._pools:
            start = start_worker if name == "fanin" else start_plain_process
            pool = ProcessPoolExecutor(1, get_context("spawn"), start)
            self._pools[name] = self._stack.enter_context(pool)
        return self._pools[name].submit(function, *arguments).result()

    def call_once(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in a new process with the settings of fanin's workers."""
        with ProcessPoolExecutor(1, get_context("spawn"), start_worker) as pool:
            return pool.submit(function, *arguments).result()


@dataclass(frozen=True)
class Settings:
    """Inputs of the cases of a section.

    Parameters
    ----------
    mode
        Size of the measurements.
    data_root
        Folder with MNIST's files in `mnist/`.
    folder
        Empty folder for the files of the section.
    workers
        Processes that measure; they end with the section.
    """

    mode: Mode
    data_root: Path
    folder: Path
    workers: Workers


class SectionModule(Protocol):
    """Functions of a module in `benchmarks/sections/`."""

    def check(self, settings: Settings) -> None:
        """Raise FaninError if the section cannot run on this machine."""

    def cases(self, settings: Settings) -> Sequence[Case]:
        """Return the cases in the order in which they run."""

    def line(self, record: Record) -> str:
        """Return the result of one case for the progress line."""

    def tables(self, records: Sequence[Record]) -> list[Table]:
        """Return all tables, for the terminal and the appendix."""

    def short_table(self, records: Sequence[Record]) -> Table | None:
        """Return the small table of docs/performance.md."""

    def answer(self, records: Sequence[Record]) -> str:
        """Return the result in one or two sentences."""

    def draw(self, records: Sequence[Record], axes: Any) -> None:
        """Draw the plot of docs/performance.md."""


def start_worker() -> None:
    """Set up a process with the settings of fanin's workers."""
    _end_with_parent()
    prepare_torch()


def start_plain_process() -> None:
    """Set up a process with torch's default settings, but one thread."""
    _end_with_parent()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        die_with_parent()


def by(records: Sequence[Record], **values: Any) -> list[Record]:
    """Return the records with these values.

    Examples
    --------
    >>> by([{"a": 1}, {"a": 2}], a=2)
    [{'a': 2}]
    """
    return [r for r in records if all(r.get(key) == value for key, value in values.items())]
