"""Processes at work, from the journals that they write."""

from __future__ import annotations

import time

from experiments.sweep.store.lock import FRESH
from experiments.sweep.view.jobs import Jobs
from experiments.sweep.view.launcher import age
from experiments.sweep.view.planned import Planned
from experiments.sweep.view.seen import OpenJournal
from experiments.sweep.view.status import RunningCell, Worker


def is_busy(journal: OpenJournal, at_work: bool, jobs: Jobs | None) -> bool:
    """Whether a journal's writer is at work, as far as can be told from here."""
    alive = None if journal.writer is None else journal.writer.process.is_running()
    if journal.over or alive is not None:
        return bool(alive) and not journal.over
    if journal.element is not None and jobs is not None and jobs.at_work is not None:
        return journal.element in jobs.at_work
    return (at_work and journal.element is None) or age(journal.grew) < FRESH


def worker_at(journal: OpenJournal, planned: Planned) -> Worker:
    """Who writes a journal, and what is in progress there."""
    now, heard, writer = time.monotonic(), age(journal.grew), journal.writer
    cells = tuple(
        RunningCell(
            each.cell_id,
            planned.labels.get(each.cell_id, each.cell_id),
            each.share,
            now - each.since,
            not each.from_start,
        )
        for each in journal.begun
    )
    if writer is None:
        return Worker("unknown", 0, None, heard, cells)
    device, process = writer.about.get("device"), writer.process
    return Worker(process.host, process.pid, None if device is None else str(device), heard, cells)
