"""The table of cells: columns for what varies, how cells ended, and what they scored."""

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

METRICS = {"test_accuracy": 4, "test_loss": 4, "train_loss": 4, "seconds": 3}  # decimals shown
ENDED = ("outcome_step", "outcome_tensor", "outcome_reason")
WHERE = ("engine", "attempt", "host", "device", "code")  # told where they differ
REASON = 200  # characters of a reason that the table shows


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes
    ----------
    key
        As in the `cells` table.
    kind
        `number` or `text`.
    values
        One a cell: a number, a text, or None where there is none. What JSON has no number for
        (infinities, NaN) is the text `inf`, `-inf` or `nan`.
    decimals
        How many are shown; None: all there are.
    role
        `varies`, `outcome`, `metric`, `ended`, `where` or `id`.
    """

    key: str
    kind: str
    values: list[Any]
    decimals: int | None = None
    role: str = "varies"

    def shown(self, row: int) -> str:
        """A value as the page shows it."""
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


def plain(value: Any) -> Any:
    """Convert a value to what JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or (isinstance(value, int | float | str) and not isinstance(value, bool)):
        return value
    return word(value)


def word(value: Any) -> str:
    """A value as labels have it."""
    return "null" if value is None else str(value)


def kind_of(values: Sequence[Any]) -> str:
    there = [value for value in values if value is not None]
    numbers = all(not isinstance(v, str) or v in ("inf", "-inf", "nan") for v in there)
    return "number" if there and numbers else "text"


def cell_columns(
    frozen: Mapping[str, PlanRecord],
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


def varying(frozen: Mapping[str, PlanRecord], ids: Sequence[str]) -> list[Column]:
    """Options and keys that somebody asked for and that not all cells have alike."""
    flat = {cell: _known(line) for cell, line in frozen.items()}
    keys = {key for line in frozen.values() for key in line["assignment"]}
    keys |= {group for line in frozen.values() for group in line["choices"]}
    columns = []
    for key in sorted(keys, key=axis_sort_key):
        values = [plain(flat[cell].get(key)) if cell in flat else None for cell in ids]
        if varies(values):
            columns.append(Column(key, kind_of(values), values))
    return columns


def folded(columns: Sequence[Column]) -> list[Column]:
    """For people: an option with the keys that come with it, `uniform a=0.0 b=1.0`, in one column.

    A key goes into its option's column where the option decides its value, or where not every cell
    has it.
    """
    options = {c.key: c for c in columns if c.role == "varies" and "." not in c.key}
    found: dict[str, Column] = {column.key: column for column in columns}
    for column in columns:
        group, _, name = column.key.partition(".")
        if column.role == "varies" and name and group in options:
            if None not in column.values and not _decided(options[group], column):
                continue
            del found[column.key]
            words = [
                option if value is None else f"{option} {name}={word(value)}"
                for option, value in zip(found[group].values, column.values, strict=True)
            ]
            found[group] = replace(found[group], values=words)
    return list(found.values())


def _decided(option: Column, column: Column) -> bool:
    pairs = set(zip(map(word, option.values), map(word, column.values), strict=True))
    return len(pairs) == len(set(map(word, option.values)))


def shared(frozen: Mapping[str, PlanRecord]) -> dict[str, str]:
    """Collect what all cells share: options, then every value under its dotted key."""
    common = shared_values(
        dict(line["choices"])
        | {k: v for k, v in scientific(line["config"]).items() if not k.endswith(TARGET)}
        for line in frozen.values()
    )
    return {key: word(common[key]) for key in sorted(common, key=axis_sort_key)}


def _known(line: PlanRecord) -> dict[str, Any]:
    return dict(flatten(line["config"])) | dict(line["choices"])
