"""Compare two recordings of `baseline.py`, table by table and cell by cell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

# New name by old name, for columns, keys in JSON paths, classes, and values of text columns. Both
# recordings are translated, so recordings from before and after a rename are equal.
RENAMES = {"rung": "theory", "finite": "finite_width", "apart": "not_tested"}

# Renames of keys in JSON paths only; `left` is also a column of histograms.
PATH_RENAMES = {"rungs": "theories", "needed": "draws_needed", "left": "residual"}

# Keys of texts in documents that are not compared; the numbers in them are recorded elsewhere.
MESSAGE_KEYS = ("message", "remedy")
# Columns that are not compared: host, time and versions of a cell's run.
IGNORED = {"cell_id", "seconds", "attempt", "host", "device", "threads", "code"}
IGNORED |= {"python", "torch", "numpy", "data.root", "data.download"}
# Columns to compare; every other column identifies the row.
CELL_RESULTS = (
    *("outcome", "outcome_step", "outcome_tensor", "outcome_reason"),
    *("test_accuracy", "test_loss", "train_loss", "engine"),
)
VALUES = (*CELL_RESULTS, "value", "log_sd", "sampling_se", "zero_probability", "log_skew")
VALUES += ("left", "right", "count")

TOLERANCE = 1e-6  # relative
# The relative error of a number that is zero up to rounding has no meaning. Its rounding error is
# epsilon times the size of the terms that cancel: float32's epsilon for measurements, and 4096
# times float64's for theory, which sums up to about 4096 terms.
MEASURED_EPSILON = float(np.finfo(np.float32).eps)
THEORY_EPSILON = 4096 * float(np.finfo(np.float64).eps)
THEORY_TABLES = ("predictions", "documents")
# Rows with numbers of the same order: one quantity of one layer, over draws and images.
SIZE_KEYS = ("sweep", "cell", "step", "layer", "quantity", RENAMES["rung"])
NUMBER = re.compile(r"[-+]?\.?\d")
MAX_SHOWN = 20  # mismatches

CellKey = tuple[str, str]
"""Sweep and cell id."""


@dataclass(frozen=True)
class Comparison:
    """Result of comparing one table.

    Attributes
    ----------
    rows
        Number of rows in both recordings.
    largest
        Largest relative difference; inf if a text, NaN or inf differs.
    mismatches
        Number of values that differ, and of rows and columns in only one recording.
    lines
        One line for each of the first mismatches.
    """

    rows: int
    largest: float
    mismatches: int
    lines: tuple[str, ...]


def compare(old: Path, new: Path, renames: Mapping[str, str] = RENAMES) -> dict[str, Comparison]:
    """Compare two recordings.

    Raises
    ------
    SystemExit
        A folder has no cells, or two of its cells have the same config.
    """
    old_tables, new_tables = read_tables(old, renames), read_tables(new, renames)
    shared = set(old_tables["cells"]) & set(new_tables["cells"])
    configs = sorted(shared - IGNORED - set(CELL_RESULTS))
    old_configs = config_of_cells(old_tables["cells"], configs)
    old_ids = {config: cell for cell, config in old_configs.items()}
    new_ids = {
        cell: old_ids[config][1] if config in old_ids else f"{cell[1]} (NEW)"
        for cell, config in config_of_cells(new_tables["cells"], configs).items()
    }
    name_cells(old_tables, {cell: cell[1] for cell in old_ids.values()})
    name_cells(new_tables, new_ids)
    empty = pd.DataFrame()
    return {
        table: compare_table(table, old_tables.get(table, empty), new_tables.get(table, empty))
        for table in sorted({*old_tables, *new_tables})
    }


def read_tables(folder: Path, renames: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """Read FOLDER/SWEEP/TABLE/*.parquet; add a column `sweep` and normalize texts."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for path in sorted(folder.glob("*/*/*.parquet")):
        part = pq.ParquetFile(path).read(use_threads=False).to_pandas().reset_index(drop=True)
        columns: dict[str, Any] = {"sweep": path.parent.parent.name}
        for name, values in part.items():
            column = apply_renames(str(name), renames)
            if column not in VALUES or not pd.api.types.is_numeric_dtype(values):
                texts = [normalize(value, column, renames) for value in values]
                values = pd.Series(texts, dtype=object)
            columns[column] = values
        frame = pd.DataFrame(columns, index=part.index)
        if "path" in frame:
            frame = frame[~frame["path"].str.rpartition("/")[2].isin(MESSAGE_KEYS)]
        parts.setdefault(path.parent.name, []).append(frame)
    if "cells" not in parts:
        raise SystemExit(f"{folder}: no cells recorded")
    # Copy, because pandas warns about fragmented frames.
    return {table: pd.concat(frames, ignore_index=True).copy() for table, frames in parts.items()}


def apply_renames(text: str, renames: Mapping[str, str]) -> str:
    """Translate a name, or each key of a JSON path.

    >>> apply_renames("layers/0/rung", {"rung": "theory"})
    'layers/0/theory'
    """
    return "/".join(renames.get(part, part) for part in text.split("/"))


def normalize(value: Any, column: str, renames: Mapping[str, str]) -> str:
    """Return a value as text, the same for 1 and 1.0, and without the module of a class.

    >>> normalize("experiments.models.Mlp", "model._target_", {}), normalize("1.0", "seed", {})
    ('Mlp', '1')
    """
    if column == "path":
        renames = {**renames, **PATH_RENAMES}
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "null"
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, str) and not NUMBER.match(value):
        return apply_renames(value.rpartition(".")[2] if "_target_" in column else value, renames)
    try:
        return repr(float(value)).removesuffix(".0")
    except ValueError:  # such as 1x32x32, or a JSON path that begins with an index
        return apply_renames(str(value), renames)


def config_of_cells(cells: pd.DataFrame, configs: Sequence[str]) -> dict[CellKey, tuple[str, ...]]:
    """Return the sweep and config values of each cell, which identify it."""
    ids = zip(cells["sweep"], cells["cell_id"], strict=True)
    values = cells[[*configs]].fillna("null").itertuples(index=False, name=None)
    by_id = dict(zip(ids, values, strict=True))
    if len(set(by_id.values())) < len(cells):
        raise SystemExit("two recorded cells have the same config, or a cell was run twice")
    return by_id


def name_cells(tables: Mapping[str, pd.DataFrame], names: Mapping[CellKey, str]) -> None:
    """Add a column `cell` with names common to both recordings to tables with cell ids."""
    for frame in tables.values():
        if "cell_id" in frame:
            keys = zip(frame["sweep"], frame["cell_id"], strict=True)
            frame["cell"] = [names.get(key, key[1]) for key in keys]


def compare_table(table: str, old: pd.DataFrame, new: pd.DataFrame) -> Comparison:
    """Match the rows of one table and compare their values."""
    if old.empty or new.empty:
        side, rows = ("OLD", len(old)) if new.empty else ("NEW", len(new))
        return Comparison(0, 0.0, rows, (f"{table}: only in {side} ({rows} rows)",))
    extra = {"OLD": set(old) - set(new) - IGNORED, "NEW": set(new) - set(old) - IGNORED}
    lines = [f"{table}: column {c} only in {side}" for side in extra for c in sorted(extra[side])]
    shared = [column for column in old if column in new.columns and column not in IGNORED]
    values = [column for column in shared if column in VALUES]
    keys = [column for column in ("sweep", "cell") if column in shared]
    keys += [column for column in shared if column not in (*keys, *VALUES)]
    if table == "cells":
        keys = ["sweep", "cell"]
    frames = [numbered(frame[[*keys, *values]], keys) for frame in (old, new)]
    joined = frames[0].merge(
        frames[1], on=[*keys, "nth"], how="outer", suffixes=("_old", "_new"), indicator="side"
    )
    mismatches = len(lines)
    for side, name in (("left_only", "OLD"), ("right_only", "NEW")):
        unmatched = joined[joined["side"] == side]
        mismatches += len(unmatched)
        lines += [f"{table}: row only in {name}: {label(row, keys)}" for row in first(unmatched)]
    rows, largest = joined[joined["side"] == "both"].reset_index(drop=True), 0.0
    for column in values:
        before, after = rows[f"{column}_old"], rows[f"{column}_new"]
        gap = relative_gap(before, after, rounding_error(table, rows, column))
        largest = max(largest, gap.max(initial=0.0))
        differs = gap > TOLERANCE
        mismatches += int(differs.sum())
        changed = rows.assign(gap=gap, before=before, after=after)[differs]
        lines += [
            f"{table}: {column} {row['before']} -> {row['after']} "
            f"(relative {row['gap']:.2g}): {label(row, keys)}"
            for row in first(changed)
        ]
    return Comparison(len(rows), largest, mismatches, tuple(lines))


def numbered(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Add a column `nth` that numbers rows with the same keys (the bins of a histogram)."""
    if "left" in frame:
        frame = frame.sort_values("left", kind="stable")
    return frame.assign(nth=frame.groupby(list(keys)).cumcount())


def first(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the first rows as dictionaries."""
    records: list[dict[str, Any]] = rows.head(MAX_SHOWN).to_dict("records")
    return records


def label(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return the keys of a row as text."""
    return " ".join(f"{key}={row[key]}" for key in keys)


def relative_gap(before: pd.Series, after: pd.Series, rounding: np.ndarray) -> np.ndarray:
    """Return each pair's difference relative to the larger value; inf if it is not finite.

    A difference within `rounding` gives at most `TOLERANCE`.
    """
    a, b = (pd.to_numeric(side, errors="coerce").to_numpy(float) for side in (before, after))
    texts = [side.where(side.notna(), "null").astype(str) for side in (before, after)]
    equal = (a == b) | (np.isnan(a) & np.isnan(b) & (texts[0] == texts[1]).to_numpy())
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        gap = np.abs(a - b) / np.maximum.reduce([np.abs(a), np.abs(b), rounding / TOLERANCE])
    return np.where(equal, 0.0, np.where(np.isnan(gap), np.inf, gap))


def rounding_error(table: str, rows: pd.DataFrame, column: str) -> np.ndarray:
    """Return the absolute rounding error of each value."""
    epsilon = THEORY_EPSILON if table in THEORY_TABLES else MEASURED_EPSILON
    if table == "documents":  # numbers of order 1
        is_root = rows["path"].str.endswith("log_sd")
        return np.where(is_root, epsilon**0.5, epsilon)
    if column == "log_sd":  # the root of a variance of order 1
        return np.full(len(rows), epsilon**0.5)
    if "quantity" not in rows:
        return np.zeros(len(rows))
    source = "value" if column == "sampling_se" else column
    sizes = pd.to_numeric(rows[f"{source}_old"], errors="coerce").abs()
    keys = [key for key in SIZE_KEYS if key in rows]
    largest = sizes.where(np.isfinite(sizes)).groupby([rows[key] for key in keys]).max()
    # A mean is a sum of terms of size sqrt(m2), and the variance is m2 - mean^2.
    group = rows[keys].assign(
        quantity=rows["quantity"].replace(["preact_mean", "preact_var"], "preact_m2")
    )
    size = largest.reindex(pd.MultiIndex.from_frame(group)).fillna(0.0).to_numpy()
    is_mean = (rows["quantity"] == "preact_mean").to_numpy()
    return np.asarray(epsilon * np.where(is_mean, size**0.5, size))


def report(comparisons: Mapping[str, Comparison]) -> str:
    """Return a table of the comparisons and the first mismatches."""
    lines = [f"{'table':12} {'rows':>8} {'largest relative':>17} {'mismatches':>11}"]
    lines += [
        f"{name:12} {result.rows:8} {result.largest:17.3g} {result.mismatches:11}"
        for name, result in comparisons.items()
    ]
    mismatches = [line for result in comparisons.values() for line in result.lines]
    return "\n".join([*lines, *mismatches[:MAX_SHOWN]])
