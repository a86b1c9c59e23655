"""What has become of each cell, from the files alone."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.sweep.store.journal import Event, journals_in, read_events
from experiments.sweep.store.parquet import decode
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.scan import steadily, survey

COLUMNS = ("cell_id", "outcome", "attempt", "seconds", "outcome_reason")
DONE = ("ok", "diverged")
FAILED = ("error", "oom", "timeout")
INTERRUPTED = ("killed", "node_fail", "cancelled")
NAN = float("nan")


@dataclass(frozen=True)
class CellState:
    """The latest attempt of a cell."""

    outcome: str
    attempt: int
    seconds: float
    reason: str | None = None


def read_states(folder: SweepFolder) -> dict[str, CellState]:
    """The latest attempt of every cell that has any, those in journals included.

    Cells of spoilt packs are not there: they are as good as missing.
    """
    # Journals first: one whose pack ends meanwhile is then found among the parts.
    journals = {stem: _events(path) for stem, path in journals_in(folder.journals).items()}
    found = steadily(lambda: survey(folder))
    states: dict[str, CellState] = {}

    def keep(cell: str, state: CellState) -> None:
        if cell not in states or state.attempt >= states[cell].attempt:
            states[cell] = state

    for pack in found.packs.values():
        for row in decode(pack.cells, COLUMNS).to_pylist():
            reason = row.get("outcome_reason")
            state = CellState(row["outcome"], row["attempt"], row.get("seconds", NAN), reason)
            keep(row["cell_id"], state)
    for stem, events in journals.items():
        if stem in found.packs or stem in found.superseded:
            continue
        attempts = {event.cell_id: event.word for event in events if event.kind == "start"}
        for event in events:
            if event.kind == "done":
                before = states.get(event.cell_id)
                attempt = attempts.get(event.cell_id, before.attempt + 1 if before else 1)
                keep(event.cell_id, CellState(event.word, int(attempt), NAN))
    return states


def _events(journal: Path) -> list[Event]:
    for path in (journal, journal.with_suffix(".taken")):  # it may be taken since the listing
        with suppress(FileNotFoundError):
            return read_events(path)[0]
    return []
