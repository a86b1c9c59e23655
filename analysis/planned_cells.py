"""Planned cells of a sweep, and which of them have no finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.load import Results
from experiments.config.identity import flatten
from experiments.sweep.differences import short_labels
from experiments.sweep.store.tables import DONE, FAILED

MAX_LISTED = 3  # cells named in a message
TABLES = ("cells", "layers", "histograms", "tensors", "curves")


@dataclass(frozen=True)
class PlannedCells:
    """All cells of a sweep's plan.

    Attributes
    ----------
    configs
        One row per cell, with the config columns of `Results.cells`.
    labels
        Label of each row: the values that vary within the sweep.
    missing
        True for a row without a finished run: never run, interrupted or failed.
    run_commands
        Commands that run the missing cells.
    """

    configs: pd.DataFrame
    labels: pd.Series
    missing: pd.Series
    run_commands: tuple[str, ...]

    @property
    def warning(self) -> str:
        """Name the missing cells and the command that runs them; empty if none is missing."""
        text = self.describe_missing({})
        return text and f"{text}; run `{'` and `'.join(self.run_commands)}`"

    def select(self, equal: Mapping[str, Any]) -> pd.Series:
        """Return True for the rows in which each named column has the given value."""
        chosen = pd.Series(True, index=self.configs.index)
        for column, value in equal.items():
            chosen &= self.configs[column] == value
        return chosen

    def describe_missing(self, equal: Mapping[str, Any]) -> str:
        """Count and name the missing cells among the selected ones; empty if none is missing."""
        chosen = self.select(equal)
        labels = self.labels[chosen & self.missing].tolist()
        if not labels:
            return ""
        listed = ", ".join(labels[:MAX_LISTED])
        more = f" and {len(labels) - MAX_LISTED} others" if len(labels) > MAX_LISTED else ""
        return f"{len(labels)} of {chosen.sum()} cells are missing: {listed}{more}"


def planned_cells(results: Results, commands: Sequence[str]) -> PlannedCells:
    """Compare a sweep's plan with its results.

    Parameters
    ----------
    results
        The sweep.
    commands
        Commands that launched the sweep.
    """
    plan = results.plan
    rows = [{**dict(flatten(line["config"])), **line["choices"]} for line in plan.values()]
    configs = pd.DataFrame(rows, index=list(plan))
    labels = short_labels({cell: line["assignment"] for cell, line in plan.items()})
    outcomes = {}
    if not results.cells.empty:
        ids = results.cells["cell_id"].astype(str)
        outcomes = dict(zip(ids, results.cells["outcome"].astype(str), strict=True))
    missing = {cell: outcomes.get(cell) not in DONE for cell in plan}
    failed = sorted({outcomes[cell] for cell in plan if outcomes.get(cell) in FAILED})
    retry = f" 'sweep.retry=[{','.join(failed)}]'" if failed else ""
    return PlannedCells(
        configs,
        pd.Series(labels, dtype=object).reindex(configs.index),
        pd.Series(missing, dtype=bool),
        tuple(f"{command}{retry}" for command in dict.fromkeys(commands)),
    )


def finished_results(results: Results) -> Results:
    """Return the tables without the rows of cells that have no finished run."""
    if results.cells.empty:
        return results
    done = results.cells["outcome"].astype(object).isin(DONE)
    if done.all():
        return results
    ids = set(results.cells.loc[done, "cell_id"].astype(str))
    return replace(results, **{name: _select(getattr(results, name), ids) for name in TABLES})


def _select(table: pd.DataFrame, ids: set[str]) -> pd.DataFrame:
    if table.empty:
        return table
    kept = table[table["cell_id"].astype(object).isin(ids)].reset_index(drop=True)
    # Values of removed cells must not appear as empty groups.
    used = {
        name: kept[name].cat.remove_unused_categories() for name in kept.select_dtypes("category")
    }
    return kept.assign(**used)
