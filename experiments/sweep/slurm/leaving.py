"""Leaving jobs to themselves: whether to, and how to find them again."""

from __future__ import annotations

import signal
import sys

from rich.console import Console

from experiments.sweep.slurm.submission import open_submissions
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.view.units import several


def show_jobs(console: Console, folder: SweepFolder) -> None:
    """Name the jobs that are under way, and the commands that go on from here."""
    there = open_submissions(folder)
    if not there:
        return
    count = sum(len(submission.open_elements()) for submission in there)
    ids = ", ".join(submission.job_id() or "not yet numbered" for submission in there)
    console.print(
        f"{several(count, 'job')} under way on Slurm: {ids}. The same command waits for them; "
        f"python -m experiments.status {folder.root.name} tells how they are; "
        f"python -m experiments.cancel {folder.root.name} stops them.",
        highlight=False,
        soft_wrap=True,
    )


def asks_to_cancel(folder: SweepFolder, console: Console) -> bool:
    """Whether somebody at the terminal wants the jobs cancelled; nobody there: leave them."""
    there = open_submissions(folder)
    if not there or not sys.stdin.isatty():
        return False
    count = sum(len(submission.open_elements()) for submission in there)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C again: leave them
    try:
        them = "it to itself" if count == 1 else "them to themselves"
        asked = f"{several(count, 'job')} under way on Slurm. [L]eave {them}, or [c]ancel? "
        return console.input(asked, markup=False).strip().lower().startswith("c")
    except (EOFError, KeyboardInterrupt):
        return False
    finally:
        signal.signal(signal.SIGINT, before)
