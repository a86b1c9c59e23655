"""The sweep's parts, and failure_time a cell's loss stopped being finite."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.load import Results
from fanin.errors import FaninError


def part_cells(results: Results, part: str) -> pd.DataFrame:
    """The cells of one part, with `bad_step` (see `bad_steps`) and `at_start` (is it 0).

    Raises
    ------
    FaninError
        None of that part has been run.
    """
    cells = results.cells
    mine = cells[_part(cells) == part] if len(cells) else cells
    if mine.empty:
        raise FaninError(f"{results.folder.root}: the part '{part}' of the sweep has not run yet")
    # Packs end in any order; what is told of them has one.
    mine = mine.sort_values("cell_id", key=lambda ids: ids.astype(str))
    steps = bad_steps(mine)
    return mine.assign(bad_step=steps, at_start=steps == 0)


def _part(cells: pd.DataFrame) -> pd.Series:
    """Name the grid of conf/sweep/inf_loss.yaml that each cell is of, by what it alone has."""
    width = column(cells, "model.width")
    tests = [
        ("regression", cells["data"].astype(str) == "gaussian"),
        ("black", cells["scaling.scale"] == 0),
        ("bad data", cells["data.corrupt.share"] > 0),
        ("clipped", cells["clip"].astype(str) != "none"),
        ("symmetry", width == 32),
        ("which init", width == 64),
        ("losses", cells["train.steps"] == 1),
    ]
    names = [name for name, _ in tests]
    found = np.select([np.asarray(test, bool) for _, test in tests], names, default="settings")
    return pd.Series(found, index=cells.index)


def column(cells: pd.DataFrame, name: str) -> pd.Series:
    """A column of numbers, NaN where no cell has such an option."""
    return cells[name] if name in cells else pd.Series(np.nan, index=cells.index)


def bad_steps(cells: pd.DataFrame) -> pd.Series:
    """The step at which the loss is no finite number for the first time; NaN where it never is.

    A gradient or an update that overflows leaves a finite loss behind it: the one after is bad.
    """
    tensor = cells["outcome_tensor"].astype(object).fillna("").astype(str)
    on_the_way_back = tensor.str.startswith("grad of ") | tensor.str.contains(".", regex=False)
    step = pd.to_numeric(cells["outcome_step"]).astype(float) + on_the_way_back
    return step.where((cells["outcome"] == "diverged").to_numpy())


def init_name(row: pd.Series) -> str:
    """An init as people write it."""
    named = str(row["init"])
    return {"normal": "N(0, 1)", "uniform": "U(0, 1)", "pytorch_default": "torch's default"}.get(
        named, named.replace("_normal", "").capitalize()
    )


def input_name(row: pd.Series) -> str:
    """The range of the input's values."""
    if str(row["scaling"]) == "standardize":
        return "stand."
    scale = float(row["scaling.scale"])
    return f"0..{scale:g}" if scale < 1e4 else f"0..1e{np.log10(scale):.0f}"


def share(hits: int, of: int) -> str:
    """A count with what it is of.

    Examples
    --------
    >>> share(3, 4)
    '3 of 4'
    """
    return f"{hits} of {of}"
