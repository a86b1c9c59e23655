"""Screen with a sweep's status, never wider than the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.sweep.status.format import (
    count_outcomes,
    job_lines,
    jobs_summary,
    pace_text,
    state_text,
    stopwatch,
)
from experiments.sweep.status.slurm import Jobs
from experiments.sweep.status.status import Status, Worker

STYLES = {
    "ok": "green",
    "diverged": "yellow",
    "running": "cyan",
    "missing": "dim",
    "interrupted": "magenta",
}
FAILURE_STYLE = "bold red"  # of every other outcome
MAX_HOST_LENGTH = 16  # characters of a host name
MIN_WORKERS = 3  # workers shown even if the screen is too low
MAX_ARRAYS = 4  # job arrays shown on a screen of limited height
OTHER_LINES = 7  # lines of the screen besides workers, jobs, failures and warnings
JOB_STYLES = {
    "running": "cyan",
    "held": "bold yellow",
    "missing": "magenta",
    "requeued": "magenta",
}


def screen(status: Status, height: int | None = None, cell_times: bool = True) -> RenderableType:
    """Render a sweep's status.

    Parameters
    ----------
    status
        Status to show.
    height
        Number of lines of the screen; workers that do not fit are counted. None: show all.
    cell_times
        Show how long each cell has run. A single read of the files does not know it.
    """
    below = [*_failures(status), *_warnings(status)]
    jobs, n_job_lines = jobs_table(status.jobs, None if height is None else MAX_ARRAYS)
    max_workers = None
    if height is not None:
        max_workers = max(MIN_WORKERS, height - len(below) - n_job_lines - OTHER_LINES)
    return Group(*_head(status), *jobs, *_workers(status.workers, max_workers, cell_times), *below)


def _head(status: Status) -> Iterator[RenderableType]:
    yield _line(Text.assemble((status.name, "bold"), f": {state_text(status)}"))
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    label = f"{status.finished:,} of {status.cells:,} cells"
    bar.add_row(ProgressBar(total=max(status.cells, 1), completed=status.finished), label)
    yield bar
    if pace := pace_text(status):
        yield _line(Text(pace))
    yield Text(", ").join(
        Text(f"{count:,} {state}", style=STYLES.get(state, FAILURE_STYLE))
        for state, count in count_outcomes(status)
    )


def _workers(
    workers: Sequence[Worker], max_workers: int | None, cell_times: bool
) -> Iterator[RenderableType]:
    if not workers:
        return
    fits = max_workers is None or len(workers) <= max_workers
    shown = workers if fits or max_workers is None else workers[: max_workers - 1]
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    table.add_column("worker", no_wrap=True)
    table.add_column("device", no_wrap=True)
    table.add_column("cell", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("done", justify="right", no_wrap=True)
    if cell_times:
        table.add_column("time", justify="right", no_wrap=True)
    for worker in shown:
        host = worker.host
        if len(host) > MAX_HOST_LENGTH:
            host = f"{host[: MAX_HOST_LENGTH - 1]}…"
        first, count = worker.cells[0], len(worker.cells)
        time = (">" if first.lower_bound else "") + stopwatch(first.seconds)
        table.add_row(
            Text(f"{host}:{worker.pid}"),
            Text(worker.device or "?"),
            Text((f"{count} cells: " if count > 1 else "") + first.label),
            f"{first.progress:.0%}",
            *([time] if cell_times else []),
        )
    yield Text()
    yield table
    if rest := len(workers) - len(shown):
        yield Text(f"and {rest} more workers", style="dim")


def _failures(status: Status) -> Iterator[RenderableType]:
    if not status.failures:
        return
    yield Text()
    tracebacks = any(failure.traceback is not None for failure in status.failures)
    where = f" (tracebacks in {status.folder.errors}/)" if tracebacks else ""
    yield _line(Text(f"last failures{where}", style="dim"))
    for failure in status.failures:
        yield _line(Text.assemble((failure.outcome, FAILURE_STYLE), f"  {failure.label}"))
        if failure.summary:
            yield _line(Text(f"  {failure.summary}"))
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


def jobs_table(
    jobs: Jobs | None, max_arrays: int | None = None
) -> tuple[list[RenderableType], int]:
    """Return the table of a sweep's jobs, and its number of lines.

    Parameters
    ----------
    jobs
        Jobs of the sweep. None: it has no jobs.
    max_arrays
        Maximum number of arrays to show, arrays with held tasks first. None: show all.
    """
    if jobs is None:
        return [], 0
    arrays = sorted(jobs.arrays, key=lambda array: not array.held)  # stable
    shown = arrays if max_arrays is None else arrays[:max_arrays]
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")  # so that a command can be copied whole
    count = 0
    for array in shown:
        name = f"job {array.job_id}" if array.job_id else "to be submitted"
        for number, line in enumerate(job_lines(array, jobs.running_leases is not None)):
            state = Text(line.state, style=JOB_STYLES.get(line.state, ""))
            table.add_row(name if number == 0 else "", line.count, state, Text(line.detail))
            count += 1
    rows: list[RenderableType] = [Text(), table] if count else [Text()]
    if rest := arrays[len(shown) :]:
        summary = jobs_summary(replace(jobs, arrays=tuple(rest)))
        rows.append(Text(f"and {len(rest)} more arrays: {summary}", style="dim"))
    if jobs.note is not None:
        rows.append(Text(jobs.note, style="dim"))
    return rows, count + len(rows)
