"""What a dead launcher, or one that is told to stop, left behind."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from experiments.sweep.store.journal import TAKEN, journals_in
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import Line
from experiments.sweep.types import Task
from experiments.sweep.worker.finalize import settle

DIED = ("killed", "its launcher died")
STOPPED = ("cancelled", "the sweep was stopped")


def recover(folder: SweepFolder, frozen: Mapping[str, Line], why: tuple[str, str] = DIED) -> None:
    """Turn every journal that is left into tables; what was at work gets an outcome.

    To be called under `sole_launcher`. A worker that lives on all the same, as none should, has
    lost its journal, and with it the right to write tables; its cells' next attempts have a higher
    number. Jobs on a cluster live on as they should: their journals are left alone.

    Parameters
    ----------
    folder
        The sweep's.
    frozen
        Its planned cells (`read_frozen`).
    why
        Outcome and reason of the cells that were at work.
    """
    tasks = {cell: Task(cell, 1, line["config"], line["choices"]) for cell, line in frozen.items()}
    for journal in journals_in(folder.journals).values():
        if _is_anothers(folder, journal):
            continue
        settle(folder, journal, tasks, *why, blame_all=True)
    for left in folder.journals.glob(f"*{TAKEN}/"):  # its taker died before it was through
        shutil.rmtree(left, ignore_errors=True)


def _is_anothers(folder: SweepFolder, journal: Path) -> bool:
    """Whether a journal lies in a folder of its own which nobody has taken back."""
    first, *rest = journal.relative_to(folder.journals).parts
    return bool(rest) and not first.endswith(TAKEN)
