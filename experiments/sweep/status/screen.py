"""A sweep's status as a screen, never wider than the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.sweep.status.format import in_short, lines, pacing, standing, stopwatch, tally
from experiments.sweep.status.slurm import Jobs
from experiments.sweep.status.status import Status, Worker

STYLES = {
    "ok": "green",
    "diverged": "yellow",
    "running": "cyan",
    "missing": "dim",
    "interrupted": "magenta",
}
BAD = "bold red"  # every other outcome
HOST = 16  # letters of a host's name that are shown
LEAST = 3  # workers that are shown on the lowest screen
MOST_ARRAYS = 4  # job arrays that a screen of limited height shows
JOB_STYLES = {"run": "cyan", "held": "bold yellow", "gone": "magenta", "requeued": "magenta"}


def screen(status: Status, height: int | None = None) -> RenderableType:
    """Everything about a sweep, for people.

    Parameters
    ----------
    status
        What to show.
    height
        Lines of the screen: of more workers than there is room for the rest is counted. None:
        show all.
    """
    below = [*_failures(status), *_warnings(status)]
    jobs, taken = jobs_table(status.jobs, None if height is None else MOST_ARRAYS)
    room = None if height is None else max(LEAST, height - len(below) - taken - 7)
    return Group(*_head(status), *jobs, *_workers(status.workers, room), *below)


def _head(status: Status) -> Iterator[RenderableType]:
    yield _line(Text.assemble((status.name, "bold"), f": {standing(status)}"))
    finished = sum(status.outcomes.values())
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    told = f"{finished:,} of {status.cells:,} cells"
    bar.add_row(ProgressBar(total=max(status.cells, 1), completed=finished), told)
    yield bar
    if pace := pacing(status):
        yield _line(Text(pace))
    yield Text(", ").join(
        Text(f"{count:,} {word}", style=STYLES.get(word, BAD)) for word, count in tally(status)
    )


def _workers(workers: Sequence[Worker], room: int | None) -> Iterator[RenderableType]:
    if not workers:
        return
    shown = workers if room is None or len(workers) <= room else workers[: room - 1]
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    table.add_column("worker", no_wrap=True)
    table.add_column("device", no_wrap=True)
    table.add_column("cell", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("done", justify="right", no_wrap=True)
    table.add_column("for", justify="right", no_wrap=True)
    for worker in shown:
        host = worker.host if len(worker.host) <= HOST else f"{worker.host[: HOST - 1]}…"
        first, count = worker.cells[0], len(worker.cells)
        table.add_row(
            Text(f"{host}:{worker.pid}"),
            Text(worker.device or "?"),
            Text((f"{count} cells: " if count > 1 else "") + first.label),
            f"{first.share:.0%}",
            (">" if first.at_least else "") + stopwatch(first.seconds),
        )
    yield Text()
    yield table
    if rest := len(workers) - len(shown):
        yield Text(f"and {rest} more workers", style="dim")


def _failures(status: Status) -> Iterator[RenderableType]:
    if not status.failures:
        return
    yield Text()
    yield _line(Text(f"last failures (tracebacks in {status.folder.errors}/)", style="dim"))
    for failure in status.failures:
        yield _line(Text.assemble((failure.outcome, BAD), f"  {failure.label}"))
        if failure.said:
            yield _line(Text(f"  {failure.said}"))
        if failure.traceback is not None:
            yield _line(Text(f"  {failure.traceback.name}", style="dim"))


def _warnings(status: Status) -> Iterator[RenderableType]:
    if status.warnings:
        yield Text()
    for warning in status.warnings:
        yield Text.assemble(("warning", "bold yellow"), f"  {warning}")


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def jobs_table(jobs: Jobs | None, most: int | None = None) -> tuple[list[RenderableType], int]:
    """Return the table of a sweep's jobs, and how many lines it takes.

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
            word = Text(line.word, style=JOB_STYLES.get(line.word, ""))
            table.add_row(name if not number else "", line.number, word, Text(line.detail))
            count += 1
    found: list[RenderableType] = [Text(), table] if count else [Text()]
    if rest := arrays[len(shown) :]:
        more = f"and {len(rest)} more arrays: {in_short(replace(jobs, arrays=tuple(rest)))}"
        found.append(Text(more, style="dim"))
    if jobs.note is not None:
        found.append(Text(jobs.note, style="dim"))
    return found, count + len(found)
