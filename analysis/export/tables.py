"""Export of the tables as one CSV or Parquet file each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.load import Results
from experiments.atomic_write import writing
from experiments.sweep.differences import short_labels
from experiments.sweep.store.paths import TABLES

LABEL = "label"  # column of `cells`: the values that vary within the sweep


@dataclass(frozen=True)
class TableFormat:
    """File format of a table: its suffix, and the function that writes a table to a file."""

    suffix: str
    write: Callable[[pd.DataFrame, Path], None]


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False)


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    table.to_parquet(path, index=False)


FORMATS = {
    "csv": TableFormat("csv", _write_csv),
    "parquet": TableFormat("parquet", _write_parquet),
}


def export_tables(results: Results, name: str, folder: Path) -> list[Path]:
    """Write every table that has rows to its own file, and return the paths.

    Parameters
    ----------
    results
        The sweep.
    name
        Key of `FORMATS`.
    folder
        Folder of the files. A file of an earlier export is replaced, or deleted if the table has no
        rows.

    Raises
    ------
    WriteError
        A file cannot be written.
    """
    table_format, paths = FORMATS[name], []
    for table_name in TABLES:
        table: pd.DataFrame = getattr(results, table_name)
        path = folder / f"{table_name}.{table_format.suffix}"
        temporary = folder / f".{path.name}.part"
        with writing(path):
            if table.empty:
                path.unlink(missing_ok=True)
                continue
            folder.mkdir(parents=True, exist_ok=True)
            if table_name == "cells":
                table = with_labels(results)
            table_format.write(table, temporary)
            temporary.replace(path)
        paths.append(path)
    return paths


def with_labels(results: Results) -> pd.DataFrame:
    """Return the table `cells` with the column `label` after the cell id."""
    ids = results.cells["cell_id"].astype(str)
    assignments = {cell: record["assignment"] for cell, record in results.plan.items()}
    labels = short_labels(assignments)
    # A damaged plan may lack a cell; its id is a label too.
    column = [labels.get(cell, cell) for cell in ids]
    position = list(results.cells.columns).index("cell_id") + 1
    table = results.cells.copy()
    table.insert(position, LABEL, column)
    return table
