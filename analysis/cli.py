"""Command line helpers of `analysis`: console, progress bar and shared arguments."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.console import BrokenPipeConsole
from fanin.progress import set_phase, show_progress

if TYPE_CHECKING:
    from analysis.predictions import OnPredicted

UNBOUNDED = 10_000  # characters


def plain_console() -> Console:
    """Return a console that never truncates and ignores markup, because labels have brackets."""
    return BrokenPipeConsole(markup=False, emoji=False, highlight=False, width=UNBOUNDED)


@contextmanager
def prediction_progress() -> Iterator[OnPredicted]:
    """Yield a callback that shows progress on stderr: a bar in a terminal, otherwise lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with show_progress("predict"):
            yield lambda done, total: set_phase("setting", min(done, total - 1), total)
        return
    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


ALL_HELP = (
    "include the cells of all requests (default: those that the sweep's last `fanin run` requested)"
)


def add_sweep_arguments(
    parser: argparse.ArgumentParser, all_help: str = ALL_HELP, **options: object
) -> None:
    """Add the arguments NAME, --results and --all.

    `options` are arguments of `add_argument` for NAME.
    """
    help_text = "name of the sweep: its folder in the results folder"
    parser.add_argument("name", **{"metavar": "NAME", "help": help_text, **options})  # type: ignore[arg-type]
    parser.add_argument(
        "--results",
        default="results",
        metavar="FOLDER",
        help="folder that contains the sweeps (default: %(default)s)",
    )
    parser.add_argument("--all", action="store_true", help=all_help)


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option `--trust`."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import the classes that the sweep's configs name, although the sweep was not run "
        "from this clone; a config from another person can run any code",
    )


def parse_probability(text: str) -> float:
    """Parse a number strictly between 0 and 1.

    >>> parse_probability("0.05")
    0.05
    """
    number = parse_number(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0 and below 1, such as 0.05")
    return number


def parse_number(text: str) -> float:
    """Parse a number.

    argparse's own message for a ValueError would contain the name of this function.
    """
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: not a number") from None


def add_workers_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option `--workers`."""
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="number of prediction processes (default: %(default)s)",
    )


def figure_folder(name: str, description: str, argv: Sequence[str] | None = None) -> Path:
    """Parse the command line of `python -m analysis.figures.NAME`; return the folder to save in."""
    parser = argparse.ArgumentParser(
        prog=f"python -m analysis.figures.{name}", description=description
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        default=Path("docs/figures"),
        help="folder in which to save the figure (default: docs/figures)",
    )
    folder: Path = parser.parse_args(argv).output
    folder.mkdir(parents=True, exist_ok=True)
    return folder
