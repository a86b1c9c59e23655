"""Load the tables of a sweep as DataFrames: its last request, the latest attempt of each cell.

This is the one place where analysis decides which cells it uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import warn

import pyarrow as pa

from analysis.folder import sweep_folder
from experiments.config.trust import allow_targets, block_targets
from experiments.gc_pause import without_gc
from experiments.sweep.clone import untrusted_targets
from experiments.sweep.store.parquet import decode
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.plan_file import PlanRecord, read_plan, read_request
from experiments.sweep.store.scan import FileProblem
from experiments.sweep.store.tables import (
    concatenate,
    latest_by_part,
    read_tables,
    select_rows,
    system_allocator,
)
from fanin.errors import FaninWarning

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Results:
    """The tables of one sweep; results/README.md describes their columns.

    Attributes
    ----------
    folder
        Paths of the sweep's files.
    cells, layers, histograms, tensors, curves
        Tables that the sweep writes; empty until the first pack (cells of one process) ends.
    predictions
        Predictions that commands such as `fanin check` have stored, for all cells; empty if there
        are none.
    request
        Ids of the cells of the sweep's last request. None: the tables have all cells.
    n_left_out
        Number of cells with a result that are left out because only other requests have them.
    """

    folder: SweepFolder
    cells: pd.DataFrame
    layers: pd.DataFrame
    histograms: pd.DataFrame
    tensors: pd.DataFrame
    curves: pd.DataFrame
    predictions: pd.DataFrame
    request: frozenset[str] | None = None
    n_left_out: int = 0

    @property
    def plan(self) -> dict[str, PlanRecord]:
        """Plan records of the cells that these tables may contain, by cell id."""
        records = read_plan(self.folder)
        if self.request is None:
            return records
        return {cell: record for cell, record in records.items() if cell in self.request}

    @property
    def left_out(self) -> str:
        """Statement of the number of cells that are left out; empty if none is."""
        if not self.n_left_out:
            return ""
        cells = "1 cell" if self.n_left_out == 1 else f"{self.n_left_out:,} cells"
        return (
            f"{self.name}: left out {cells} that the sweep's last command did not request; include "
            "them with --all (in Python: load(..., all=True))"
        )

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.folder.root.name


def load(
    name: str | Path, results: str | Path = "results", *, all: bool = False, trust: bool = False
) -> Results:
    """Read the tables of a sweep.

    Several commands may store cells in one folder. By default, the tables have the cells of the
    last command only, so that no other cell enters a conclusion by accident.

    Parameters
    ----------
    name
        Name of the sweep's folder, or its absolute path, which `experiments.run_sweep` returns.
    results
        Folder that contains the sweeps.
    all
        Include the cells of all requests, not only of the last one (the last `fanin run` or
        `run_sweep` with this sweep's name).
    trust
        Allow the import of the classes and functions that the sweep's configs name as `_target_`,
        although the sweep was not run from this clone. A config from another person can run any
        code. Without it, only classes of `fanin` and `experiments` and the options of `conf/` are
        imported for such a sweep.

    Returns
    -------
    Results
        All tables, restricted to the latest attempt of each cell: `cells` has one row per cell.
        Repeated strings are categoricals.

    Raises
    ------
    FaninError
        The sweep does not exist (the message lists the nearest names), or it has another format
        version.

    Warns
    -----
    FaninWarning
        Cells of other requests were left out; the message has their number.
        Damaged and foreign files were skipped; the message lists them. All files of a pack are
        skipped if one of them is damaged. Or: targets of the configs are not imported.

    Examples
    --------
    >>> from analysis import load
    >>> results = load("my_sweep")  # doctest: +SKIP
    >>> results.cells.groupby("init").test_accuracy.mean()  # doctest: +SKIP
    """
    folder = sweep_folder(name, results)
    with without_gc():  # the plan and the parts are many objects, and none of them is garbage
        _restrict_targets(folder, trust)
        request = None if all else read_request(folder)
        tables, faults = read_tables(folder)
        predictions, prediction_faults = _predictions(folder)
    with system_allocator():
        latest_cells = latest_by_part(tables["cells"])
        n_stored = sum(map(len, latest_cells.values()))
        if request is not None:
            latest_cells = {
                stem: requested
                for stem, cells in latest_cells.items()
                if (requested := [cell for cell in cells if cell in request])
            }
        complete = {
            stem for stem, cells in latest_cells.items() if len(cells) == len(tables["cells"][stem])
        }
        frames = {
            table: _concat(
                [
                    part if stem in complete else select_rows(part, latest_cells[stem])
                    for stem, part in parts.items()
                    if stem in latest_cells
                ]
            )
            for table, parts in tables.items()
        }
        frames["predictions"] = _concat(predictions)
    _warn_unreadable(faults + prediction_faults)
    n_left_out = n_stored - sum(map(len, latest_cells.values()))
    loaded = Results(folder, **frames, request=request, n_left_out=n_left_out)
    if loaded.left_out:
        warn(loaded.left_out, FaninWarning, stacklevel=2)
    return loaded


def _restrict_targets(folder: SweepFolder, trust: bool) -> None:
    """Block the import of targets that this clone has not planned, unless `trust`."""
    configs = [record["config"] for record in read_plan(folder).values()]
    targets = untrusted_targets(folder, configs)
    if trust:
        allow_targets(targets)
    elif targets:
        block_targets(targets)
        warn(
            f"{folder.root} was not run from this clone, so fanin does not import "
            f"{', '.join(targets)}; if you trust its author, add --trust (in Python: "
            "load(..., trust=True))",
            FaninWarning,
            stacklevel=3,
        )


def _predictions(folder: SweepFolder) -> tuple[list[pa.Table], list[FileProblem]]:
    """Read the stored predictions; `analysis.check` recomputes parts that are not readable."""
    parts, faults = [], []
    for path in sorted(folder.table("predictions").glob("[!.]*")):  # hidden: being written
        try:
            parts.append(decode(path.read_bytes()))
        except FileNotFoundError:
            continue  # replaced since the listing
        except (ValueError, OSError) as error:
            faults.append(FileProblem(path, f"not a readable Parquet file ({error})"))
    return parts, faults


def _warn_unreadable(faults: list[FileProblem]) -> None:
    if not faults:
        return
    lines = "".join(f"\n  {fault}" for fault in faults)
    damaged = any(fault.stem is not None for fault in faults)
    hint = (
        "\nTo run the cells of damaged packs again, repeat the sweep's command." if damaged else ""
    )
    warn(f"Skipped these files:{lines}{hint}", FaninWarning, stacklevel=3)


def _concat(parts: list[pa.Table]) -> pd.DataFrame:
    import pandas as pd  # loads slowly; commands that refuse their arguments don't need it

    if not parts:
        return pd.DataFrame()
    frame: pd.DataFrame = concatenate(parts).to_pandas(use_threads=False)  # see `decode`
    return frame
