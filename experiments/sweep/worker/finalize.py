"""What is made of a pack whose writer is gone: finished cells kept, the one at work blamed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.result import CellResult
from experiments.sweep.store.journal import Event, read_events, read_results, read_writer, take
from experiments.sweep.store.parquet import publish
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Task
from experiments.sweep.worker.rows import failed, identified


@dataclass(frozen=True)
class Settled:
    """Cells of a journal: `finished` have their result, `blamed` a row that says what befell them.

    `suspects` were at work together, so nobody knows which of them it was: they have no row.
    """

    finished: frozenset[str] = frozenset()
    blamed: frozenset[str] = frozenset()
    suspects: frozenset[str] = frozenset()


def settle(
    folder: SweepFolder,
    journal: Path,
    tasks: Mapping[str, Task],
    outcome: str,
    reason: str,
    blame_all: bool = False,
) -> Settled | None:
    """Take a journal, write its tables, and give what was at work an outcome.

    Parameters
    ----------
    folder
        The sweep's.
    journal
        `STEM.journal`, or a `STEM.taken` whose taker is dead.
    tasks
        The cells that may be in it, by id; the attempt is what the journal says.
    outcome, reason
        Of the cell that was at work.
    blame_all
        Whether several that were at work together all have it: where no cell of them is to blame,
        as when their launcher died or was told to stop.

    Returns
    -------
    Settled or None
        None where somebody else has taken the journal, or there is none.
    """
    taken = journal if journal.suffix == ".taken" else take(journal)
    if taken is None:
        return None
    try:
        writer = read_writer(taken)
        events = read_events(taken)[0]
        results = read_results(taken)
    except FileNotFoundError:
        return None
    at_work: dict[str, int] = {}
    follow(at_work, events)
    said = writer.about if writer is not None else {}
    guilty = at_work if blame_all or len(at_work) == 1 else {}
    for cell, attempt in guilty.items():
        if cell in tasks:
            task = Task(cell, attempt, tasks[cell].config, tasks[cell].choices)
            result = failed(task, outcome, reason)
            row = identified(task, result.row, said.get("device"), said.get("engine"))
            results.append(CellResult(row, {}))
    publish(folder, taken, results)
    finished = frozenset(event.cell_id for event in events if event.kind == "done")
    blamed = frozenset(guilty)
    return Settled(finished, blamed, frozenset(at_work) - blamed)


def follow(at_work: dict[str, int], events: Iterable[Event]) -> None:
    """Keep up with the cells that have begun and not ended, each with its attempt, in place."""
    for event in events:
        if event.kind == "start":
            at_work[event.cell_id] = int(event.word)
        elif event.kind == "done":
            at_work.pop(event.cell_id, None)
