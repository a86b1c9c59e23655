"""Packs with rows in all tables, written as a worker writes them."""

from __future__ import annotations

import warnings
from typing import Any

from analysis import Results, load
from experiments.result import CellResult
from experiments.sweep.store.format_version import write_format
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.parquet import commit_journal
from experiments.sweep.store.paths import TABLES, SweepFolder

LAYERS = 3  # rows that a cell has in `layers`


def result(cell: str, attempt: int = 1, outcome: str = "ok", **more: Any) -> CellResult:
    row = {"cell_id": cell, "outcome": outcome, "attempt": attempt, "seconds": 1.0, **more}
    return CellResult(
        row | {"outcome_reason": None},
        {
            "layers": {"layer": list(range(LAYERS)), "value": [attempt + 0.5] * LAYERS},
            "histograms": {"left": [0.0], "right": [1.0], "count": [attempt]},
            "tensors": {"shape": ["1x1"], "index": [0], "value": [attempt + 0.25]},
            "curves": {"step": [0], "metric": ["train_loss"], "value": [float(attempt)]},
        },
    )


def store(folder: SweepFolder, stem: str, *results: CellResult) -> None:
    """Write a pack of these cells by way of its journal."""
    journal = Journal(folder.journals / f"{stem}.journal")
    for cell_result in results:
        journal.done(cell_result)
    journal.close()
    commit_journal(folder, journal.path)
    folder.plan.touch()
    write_format(folder)


def loaded(folder: SweepFolder) -> Results:
    """Load the sweep, and fail on any warning about files that were left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(folder.root.name, folder.root.parent)


def contents(results: Results) -> dict[str, list[tuple[Any, ...]]]:
    """Return the sorted rows of every table."""
    rows = {}
    for name in TABLES:
        frame = getattr(results, name)
        columns = sorted(frame.columns)
        rows[name] = sorted(map(repr, frame[columns].astype(object).itertuples(index=False)))
    return rows
