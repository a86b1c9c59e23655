"""A sweep's jobs on a screen."""

from __future__ import annotations

from dataclasses import replace

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from experiments.sweep.view.job_words import in_short, lines
from experiments.sweep.view.jobs import Jobs

STYLES = {"run": "cyan", "held": "bold yellow", "gone": "magenta", "requeued": "magenta"}


def jobs_table(jobs: Jobs | None, most: int | None = None) -> tuple[list[RenderableType], int]:
    """What is shown of a sweep's jobs, and how many lines that takes.

    Parameters
    ----------
    jobs
        What there is; None: nothing.
    most
        How many arrays are shown, those first that somebody should see to; None: all.
    """
    if jobs is None:
        return [], 0
    arrays = sorted(jobs.arrays, key=lambda array: not array.held)  # stable
    shown = arrays if most is None else arrays[:most]
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")  # so that a command can be copied whole
    count = 0
    for array in shown:
        name = f"job {array.job_id}" if array.job_id else "to be submitted"
        for number, line in enumerate(lines(array, jobs.at_work is not None)):
            word = Text(line.word, style=STYLES.get(line.word, ""))
            table.add_row(name if not number else "", line.number, word, Text(line.detail))
            count += 1
    found: list[RenderableType] = [Text(), table] if count else [Text()]
    if rest := arrays[len(shown) :]:
        more = f"and {len(rest)} more arrays: {in_short(replace(jobs, arrays=tuple(rest)))}"
        found.append(Text(more, style="dim"))
    if jobs.note is not None:
        found.append(Text(jobs.note, style="dim"))
    return found, count + len(found)
