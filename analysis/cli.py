"""Parts that the commands of `analysis` share: console, progress, and arguments."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from analysis.predictions import OnPredicted
from experiments.console import BrokenPipeConsole

UNBOUNDED = 10_000  # characters


def plain_console() -> Console:
    """Return a console without markup, for labels may hold brackets, that cuts no line short."""
    return BrokenPipeConsole(markup=False, emoji=False, highlight=False, width=UNBOUNDED)


@contextmanager
def prediction_progress() -> Iterator[OnPredicted]:
    """Yield a callback that moves a progress bar on stderr, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def add_sweep(parser: argparse.ArgumentParser, **options: object) -> None:
    """Add the arguments NAME and --results; `options` go to NAME."""
    help_text = "the sweep's folder under results/"
    parser.add_argument("name", **{"metavar": "NAME", "help": help_text, **options})  # type: ignore[arg-type]
    parser.add_argument("--results", default="results", help="where sweeps are kept")


def probability(text: str) -> float:
    """Parse a probability between 0 and 1, both excluded.

    >>> probability("0.05")
    0.05
    """
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a chance between 0 and 1")
    return number
