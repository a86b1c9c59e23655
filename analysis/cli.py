"""Parts that the commands of `analysis` share: errors, console, progress, and argument types."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from analysis.predictions import OnPredicted
from fanin.errors import UNUSABLE, FaninError, warnings_as_lines

UNBOUNDED = 10_000  # characters


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an error as one line on stderr and exit with status 2; print warnings as lines."""
    try:
        with warnings_as_lines():
            yield
    except (FaninError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(UNUSABLE) from None


def plain_console() -> Console:
    """Return a console without markup, for labels may hold brackets, that cuts no line short."""
    return Console(markup=False, emoji=False, highlight=False, width=UNBOUNDED)


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
