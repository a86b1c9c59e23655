"""Summaries: the tables of a finished study, and how they came about, in one Parquet file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.atomic_write import atomic_write
from experiments.sweep.provenance import REPOSITORY
from fanin.errors import FaninError

FOLDER = REPOSITORY / "docs" / "summaries"
MAX_BYTES = 1_000_000
TABLE = "table"  # column that names the table of a row
ABOUT = b"fanin.summary"  # key of the file's metadata
CELLS = "cells"


@dataclass(frozen=True)
class Summary:
    """Everything that a study's page and figures need.

    Attributes
    ----------
    name
        Name of the sweep.
    tables
        DataFrames by name. `cells` has the design and outcome of each cell and a column `seed`;
        the claims are scored on it.
    about
        `command`, `commit`, `clean`, `date`, `n_cells`, `seeds`, `seconds`, `size`, `scoring`,
        `inputs`, `source` and `versions` of the run.
    """

    name: str
    tables: Mapping[str, pd.DataFrame]
    about: Mapping[str, Any]

    @property
    def cells(self) -> pd.DataFrame:
        """Design and outcome of each cell."""
        return self.tables[CELLS]


def summary_path(name: str, folder: Path = FOLDER) -> Path:
    """Return the path of a study's summary."""
    return folder / f"{name}.parquet"


def write_summary(summary: Summary, folder: Path = FOLDER) -> Path:
    """Write a summary.

    Raises
    ------
    FaninError
        The file would exceed 1 MB.
    """
    frames = [frame.assign(**{TABLE: name}) for name, frame in summary.tables.items()]
    table = pa.Table.from_pandas(pd.concat(frames, ignore_index=True), preserve_index=False)
    metadata = {ABOUT: json.dumps(dict(summary.about), sort_keys=True, default=str)}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata), sink, compression="zstd", compression_level=19
    )
    data = sink.getvalue().to_pybytes()
    if len(data) > MAX_BYTES:
        raise FaninError(
            f"{summary.name}: the summary has {len(data):,} bytes, more than {MAX_BYTES:,}; let "
            "`summarize` keep fewer rows or columns"
        )
    path = summary_path(summary.name, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data)
    return path


def read_summary(name: str, folder: Path = FOLDER) -> Summary:
    """Read a summary.

    Raises
    ------
    FaninError
        There is no readable summary of this name.
    """
    path = summary_path(name, folder)
    if not path.is_file():
        raise FaninError(
            f"{path}: no summary of {name}. Run the study, then: python -m "
            f"analysis.studies.summarize {name}"
        )
    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[ABOUT])
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise FaninError(f"{path}: not a summary: {error}") from error
    rows = table.to_pandas()
    tables = {
        str(key): frame.drop(columns=TABLE).dropna(axis=1, how="all").reset_index(drop=True)
        for key, frame in rows.groupby(TABLE, sort=False)
    }
    return Summary(name, tables, about)


def summaries(folder: Path = FOLDER) -> list[str]:
    """Return the names of all studies that have a summary."""
    return sorted(path.stem for path in folder.glob("*.parquet"))
