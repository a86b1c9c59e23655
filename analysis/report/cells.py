"""Columns of the table of cells: varying keys, outcome, metrics and provenance."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.settings import axis_sort_key
from experiments.config.identity import flatten, scientific
from experiments.config.instantiate import TARGET
from experiments.sweep.differences import shared_values, varies
from experiments.sweep.store.plan_file import PlanRecord

METRIC_DECIMALS = {"test_accuracy": 4, "test_loss": 4, "train_loss": 4, "seconds": 3}
END_COLUMNS = ("outcome_step", "outcome_tensor", "outcome_reason")
RUN_COLUMNS = ("engine", "attempt", "host", "device", "code")  # included if they vary
MAX_REASON_LENGTH = 200  # characters


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes
    ----------
    key
        Name, as in the `cells` table.
    kind
        `number` or `text`.
    values
        One value per cell: a number, a text, or None if missing. Infinities and NaN, which JSON
        does not have, are the texts `inf`, `-inf` and `nan`.
    decimals
        Number of decimals to display; None for all.
    role
        `varies`, `outcome`, `metric`, `end`, `run` or `id`.
    """

    key: str
    kind: str
    values: list[Any]
    decimals: int | None = None
    role: str = "varies"

    def display(self, row: int) -> str:
        """Format the value of a row for the page."""
        value = self.values[row]
        if value is None:
            return "–"
        if isinstance(value, str):
            return value
        if self.decimals is None:
            return f"{value:.15g}"
        if value and not 1e-3 <= abs(value) < 1e5:
            return f"{value:.2e}"
        return f"{value:.{self.decimals}f}"


def to_json_value(value: Any) -> Any:
    """Convert a value to a number or text that JSON can represent."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or (isinstance(value, int | float | str) and not isinstance(value, bool)):
        return value
    return format_value(value)


def format_value(value: Any) -> str:
    """Format a value as in labels."""
    return "null" if value is None else str(value)


def column_kind(values: Sequence[Any]) -> str:
    """Return `number` if all values that are not missing are numbers, else `text`."""
    present = [value for value in values if value is not None]
    numbers = all(not isinstance(v, str) or v in ("inf", "-inf", "nan") for v in present)
    return "number" if present and numbers else "text"


def cell_columns(
    records: Mapping[str, PlanRecord],
    cells: pd.DataFrame,
    outcomes: Mapping[str, str] = {},
    running: Collection[str] = (),
) -> list[Column]:
    """Return the columns for all cells that were planned or ran, in plan order.

    Parameters
    ----------
    records
        Plan records by cell id.
    cells
        The `cells` table.
    outcomes
        Outcomes of cells that are not yet in the table.
    running
        Ids of running cells.
    """
    rows = {} if cells.empty else cells.set_index(cells["cell_id"].astype(str)).to_dict("index")
    ids = list(dict.fromkeys([*records, *rows]))
    cell_outcomes = [_outcome(cell, rows, outcomes, running) for cell in ids]
    run_columns = (_table_column(key, ids, rows, "run") for key in RUN_COLUMNS)
    columns = [
        *varying_columns(records, ids),
        Column("outcome", "text", cell_outcomes, role="outcome"),
        *(_table_column(key, ids, rows, "metric", n) for key, n in METRIC_DECIMALS.items()),
        *(_table_column(key, ids, rows, "end") for key in END_COLUMNS),
        *(column for column in run_columns if _differs(column)),
        Column("cell_id", "text", list(ids), role="id"),
    ]
    return [column for column in columns if any(value is not None for value in column.values)]


def _outcome(
    cell: str,
    rows: Mapping[str, Mapping[str, Any]],
    outcomes: Mapping[str, str],
    running: Collection[str],
) -> str:
    if cell in running:
        return "running"
    return str(rows[cell]["outcome"]) if cell in rows else outcomes.get(cell, "missing")


def _table_column(
    key: str, ids: Sequence[str], rows: Mapping[str, Any], role: str, decimals: int | None = None
) -> Column:
    values = [_or_none(rows[cell].get(key)) if cell in rows else None for cell in ids]
    if key == "outcome_step":
        values = [None if value is None else int(value) for value in values]
    if key == "outcome_reason":
        values = [
            None if value is None else str(value).partition("\n")[0][:MAX_REASON_LENGTH]
            for value in values
        ]
    return Column(key, column_kind(values), values, decimals, role)


def _differs(column: Column) -> bool:
    return len({value for value in column.values if value is not None}) > 1


def _or_none(value: Any) -> Any:
    """Return None for NaN, the missing value of a table."""
    return None if isinstance(value, float) and math.isnan(value) else to_json_value(value)


def varying_columns(records: Mapping[str, PlanRecord], ids: Sequence[str]) -> list[Column]:
    """Return the options and the explicitly set keys that vary between cells."""
    configs = {cell: _flat_config(record) for cell, record in records.items()}
    keys = {key for record in records.values() for key in record["assignment"]}
    keys |= {group for record in records.values() for group in record["choices"]}
    columns = []
    for key in sorted(keys, key=axis_sort_key):
        values = [
            to_json_value(configs[cell].get(key)) if cell in configs else None for cell in ids
        ]
        if varies(values):
            columns.append(Column(key, column_kind(values), values))
    return columns


def fold_options(columns: Sequence[Column]) -> list[Column]:
    """Merge keys into the column of their option, such as `uniform a=0.0 b=1.0`.

    A key is merged if the option determines its value or if some cells do not have it.
    """
    options = {c.key: c for c in columns if c.role == "varies" and "." not in c.key}
    folded: dict[str, Column] = {column.key: column for column in columns}
    for column in columns:
        group, _, name = column.key.partition(".")
        if column.role == "varies" and name and group in options:
            if None not in column.values and not _determines(options[group], column):
                continue
            del folded[column.key]
            texts = [
                option if value is None else f"{option} {name}={format_value(value)}"
                for option, value in zip(folded[group].values, column.values, strict=True)
            ]
            folded[group] = replace(folded[group], values=texts)
    return list(folded.values())


def _determines(option: Column, column: Column) -> bool:
    pairs = set(
        zip(map(format_value, option.values), map(format_value, column.values), strict=True)
    )
    return len(pairs) == len(set(map(format_value, option.values)))


def common_values(records: Mapping[str, PlanRecord]) -> dict[str, str]:
    """Return the options and dotted keys that have the same value in all cells."""
    common = shared_values(
        dict(record["choices"])
        | {k: v for k, v in scientific(record["config"]).items() if not k.endswith(TARGET)}
        for record in records.values()
    )
    return {key: format_value(common[key]) for key in sorted(common, key=axis_sort_key)}


def _flat_config(record: PlanRecord) -> dict[str, Any]:
    return dict(flatten(record["config"])) | dict(record["choices"])
