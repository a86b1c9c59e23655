"""Argument types and the progress bar that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from analysis.predictions import OnPredicted


@contextmanager
def predicting() -> Iterator[OnPredicted]:
    """Yield what to call after each setting; nothing is shown where nobody looks."""
    console = Console(stderr=True)
    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def chance(text: str) -> float:
    """A chance, neither sure nor impossible.

    >>> chance("0.05")
    0.05
    """
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a chance between 0 and 1")
    return number
