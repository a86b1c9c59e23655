"""All cells of a sweep as columns: what tells them apart, how they ended, what they scored."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.report.column import Column, kind_of, plain
from analysis.report.varying import varying
from experiments.sweep.store.plan_file import Line

METRICS = {"test_accuracy": 4, "test_loss": 4, "train_loss": 4, "seconds": 3}  # decimals shown
ENDED = ("outcome_step", "outcome_tensor", "outcome_reason")
WHERE = ("engine", "attempt", "host", "device", "code")  # told where they differ
REASON = 200  # characters of a reason that the table shows


def cell_columns(
    frozen: Mapping[str, Line],
    cells: pd.DataFrame,
    ended: Mapping[str, str] = {},
    running: Collection[str] = (),
) -> list[Column]:
    """Every cell that was planned or ran, those first that were planned first.

    Parameters
    ----------
    frozen, cells
        The plan, and the `cells` table.
    ended
        Outcomes of cells that are in no table yet.
    running
        Cells that run now.
    """
    rows = {} if cells.empty else cells.set_index(cells["cell_id"].astype(str)).to_dict("index")
    ids = list(dict.fromkeys([*frozen, *rows]))
    outcomes = [_outcome(cell, rows, ended, running) for cell in ids]
    columns = [
        *varying(frozen, ids),
        Column("outcome", "text", outcomes, role="outcome"),
        *(_from_table(key, ids, rows, "metric", METRICS[key]) for key in METRICS),
        *(_from_table(key, ids, rows, "ended") for key in ENDED),
        *(c for c in (_from_table(k, ids, rows, "where") for k in WHERE) if _differs(c)),
        Column("cell_id", "text", list(ids), role="id"),
    ]
    return [column for column in columns if any(value is not None for value in column.values)]


def _outcome(
    cell: str,
    rows: Mapping[str, Mapping[str, Any]],
    ended: Mapping[str, str],
    running: Collection[str],
) -> str:
    if cell in running:
        return "running"
    return str(rows[cell]["outcome"]) if cell in rows else ended.get(cell, "missing")


def _from_table(
    key: str, ids: Sequence[str], rows: Mapping[str, Any], role: str, decimals: int | None = None
) -> Column:
    values = [_there(rows[cell].get(key)) if cell in rows else None for cell in ids]
    if key == "outcome_step":
        values = [None if value is None else int(value) for value in values]
    if key == "outcome_reason":
        values = [None if v is None else str(v).partition("\n")[0][:REASON] for v in values]
    return Column(key, kind_of(values), values, decimals, role)


def _differs(column: Column) -> bool:
    return len({value for value in column.values if value is not None}) > 1


def _there(value: Any) -> Any:
    """A table's NaN says that there is no value."""
    return None if isinstance(value, float) and math.isnan(value) else plain(value)
