"""A sweep's tables as DataFrames, the latest attempt of each cell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from warnings import warn

import pandas as pd
import pyarrow as pa

from experiments.sweep.store.parquet import decode
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.scan import Fault
from experiments.sweep.store.tables import concatenate, latest, of_cells, read_tables
from fanin.errors import FaninError, FaninWarning, nearest


@dataclass(frozen=True)
class Results:
    """The tables of one sweep; results/README.md says what their columns are.

    `predictions` is empty until `analysis.check` has written it; the others until a pack has ended.
    """

    folder: SweepFolder
    cells: pd.DataFrame
    layers: pd.DataFrame
    histograms: pd.DataFrame
    tensors: pd.DataFrame
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

    Warns
    -----
    FaninWarning
        Files that are spoilt, or none of the sweep's, are named and left out; so is the rest of a
        pack of which one file is spoilt.
    """
    folder = SweepFolder(Path(results) / name)
    if not folder.plan.exists():
        there = [path.parent.name for path in Path(results).glob("*/cells.jsonl")]
        raise FaninError(f"{folder.root}: no such sweep; {nearest(name, there)}")
    with _system_allocator():
        tables, faults = read_tables(folder)
        predicted, unread = _predictions(folder)
        kept = latest(tables["cells"])
        whole = {stem for stem, cells in kept.items() if len(cells) == len(tables["cells"][stem])}
        frames = {
            table: _joined(
                [
                    part if stem in whole else of_cells(part, kept[stem])
                    for stem, part in parts.items()
                    if stem in kept
                ]
            )
            for table, parts in tables.items()
        }
        frames["predictions"] = _joined(predicted)
    _warn(faults + unread)
    return Results(folder, **frames)


@contextmanager
def _system_allocator() -> Iterator[None]:
    """Have Arrow allocate as C does: what its own allocator frees it gives back to the system.

    For many parts, getting that memory anew took more time than all the rest of reading them.
    """
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def _predictions(folder: SweepFolder) -> tuple[list[pa.Table], list[Fault]]:
    """The parts that analysis wrote; what can't be read of them `analysis.check` makes again."""
    parts, faults = [], []
    for path in sorted(folder.table("predictions").glob("[!.]*")):  # hidden: being written
        try:
            parts.append(decode(path.read_bytes()))
        except FileNotFoundError:
            continue  # replaced by other settings' since the listing
        except (ValueError, OSError) as error:
            faults.append(Fault(path, f"not a readable Parquet file ({error})"))
    return parts, faults


def _warn(faults: list[Fault]) -> None:
    if not faults:
        return
    lines = "".join(f"\n  {fault}" for fault in faults)
    spoilt = any(fault.stem is not None for fault in faults)
    again = "\nThe sweep's own command runs the cells of spoilt packs again." if spoilt else ""
    warn(f"these files were left out:{lines}{again}", FaninWarning, stacklevel=3)


def _joined(parts: list[pa.Table]) -> pd.DataFrame:
    if not parts:
        return pd.DataFrame()
    frame: pd.DataFrame = concatenate(parts).to_pandas(use_threads=False)  # see `decode`
    return frame
