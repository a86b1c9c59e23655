"""A sweep's tables as DataFrames, the latest attempt of each cell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from experiments.errors import FaninError, nearest
from experiments.sweep.store.parquet import read_parts
from experiments.sweep.store.paths import SweepFolder


@dataclass(frozen=True)
class Results:
    """The tables of one sweep; results/README.md says what their columns are.

    `predictions` is empty until `analysis.check` has written it; the others until a pack has ended.
    """

    folder: SweepFolder
    cells: pd.DataFrame
    layers: pd.DataFrame
    histograms: pd.DataFrame
    curves: pd.DataFrame
    predictions: pd.DataFrame

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.folder.root.name


def load(name: str, results: str | Path = "results") -> Results:
    """Read a sweep's tables.

    Parameters
    ----------
    name
        The sweep's folder under `results`.
    results
        Where sweeps are kept.

    Returns
    -------
    Results
        One row per cell in `cells`: where a cell was tried more than once, the latest attempt, and
        in the other tables only what that attempt left. Repeated strings are categoricals.

    Raises
    ------
    FaninError
        There is no such sweep; the nearest names are listed.
    DataError
        A part file can't be read; it is named.
    """
    folder = SweepFolder(Path(results) / name)
    if not folder.plan.exists():
        there = [path.parent.name for path in Path(results).glob("*/cells.jsonl")]
        raise FaninError(f"{folder.root}: no such sweep; {nearest(name, there)}")
    parts = {table: read_parts(folder, table) for table in (*MEASURED, "cells")}
    latest = _latest(parts["cells"])
    frames = {
        table: _joined([_kept(part, latest[stem]) for stem, part in parts[table] if stem in latest])
        for table in parts
    }
    predicted = _joined([part for _, part in read_parts(folder, "predictions")])
    return Results(folder, predictions=predicted, **frames)


MEASURED = ("layers", "histograms", "curves")


def _latest(parts: list[tuple[str, pa.Table]]) -> dict[str, list[str]]:
    """For each part, the cells whose latest attempt it holds (the last part, should two tie)."""
    where: dict[str, tuple[int, str]] = {}
    for stem, part in parts:
        rows = zip(part["cell_id"].to_pylist(), part["attempt"].to_pylist(), strict=True)
        for cell, attempt in rows:
            where[cell] = max(where.get(cell, (0, "")), (attempt, stem))
    latest: dict[str, list[str]] = {}
    for cell, (_, stem) in where.items():
        latest.setdefault(stem, []).append(cell)
    return latest


def _kept(part: pa.Table, cells: list[str]) -> pa.Table:
    ids = part["cell_id"].cast(pa.string())
    return part.filter(pc.is_in(ids, value_set=pa.array(cells, pa.string())))


def _joined(parts: list[pa.Table]) -> pd.DataFrame:
    """One table; columns that a part lacks are null there, and numbers meet as floats."""
    if not parts:
        return pd.DataFrame()
    mixed = _mixed(parts)
    parts = [_worded(part, mixed) for part in parts]
    frame: pd.DataFrame = pa.concat_tables(parts, promote_options="permissive").to_pandas()
    return frame


def _mixed(parts: list[pa.Table]) -> set[str]:
    """Columns of words in one part and of numbers, or of truth values, in another."""
    kinds: dict[str, set[str]] = {}
    for part in parts:
        for field in part.schema:
            if not pa.types.is_null(field.type):
                kinds.setdefault(field.name, set()).add(_kind(field.type))
    return {name for name, found in kinds.items() if len(found) > 1}


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "truth"
    return "number" if pa.types.is_primitive(kind) else "word"


def _worded(part: pa.Table, columns: set[str]) -> pa.Table:
    """Some columns as words: what is none already as JSON, as within one part."""
    for name in columns & set(part.column_names):
        column = part[name]
        if _kind(column.type) != "word":
            texts = [None if v is None else json.dumps(v) for v in column.to_pylist()]
            column = pa.array(texts, pa.string()).dictionary_encode()
            part = part.set_column(part.column_names.index(name), name, column)
    return part
