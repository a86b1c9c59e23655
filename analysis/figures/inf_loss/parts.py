"""Parts of the sweep `inf_loss`, and the first step with a non-finite loss."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.load import Results
from fanin.errors import FaninError


def part_cells(results: Results, part: str) -> pd.DataFrame:
    """Return the cells of one part, with `bad_step` (see `bad_steps`) and `at_start` (step 0).

    Raises
    ------
    FaninError
        No cell of the part has run yet.
    """
    cells = results.cells
    rows = cells[_part(cells) == part] if len(cells) else cells
    if rows.empty:
        raise FaninError(
            f"{results.folder.root}: the part '{part}' of the sweep has not run yet; "
            "run the rest of the sweep"
        )
    # Packs finish in any order; sort, so that the tables do not depend on it.
    rows = rows.sort_values("cell_id", key=lambda ids: ids.astype(str))
    steps = bad_steps(rows)
    return rows.assign(bad_step=steps, at_start=steps == 0)


def _part(cells: pd.DataFrame) -> pd.Series:
    """Return each cell's part (a grid of conf/sweep/inf_loss.yaml), found from its config keys."""
    width = column(cells, "model.width")
    tests = [
        ("regression", cells["data"].astype(str) == "gaussian"),
        ("zero image", cells["scaling.scale"] == 0),
        ("bad data", cells["data.corrupt.share"] > 0),
        ("clipped", cells["clip"].astype(str) != "none"),
        ("symmetry", width == 32),
        ("inits", width == 64),
        ("losses", cells["train.steps"] == 1),
    ]
    names = [name for name, _ in tests]
    parts = np.select([np.asarray(test, bool) for _, test in tests], names, default="settings")
    return pd.Series(parts, index=cells.index)


def column(cells: pd.DataFrame, name: str) -> pd.Series:
    """Return a numeric column, or NaN if no cell has this config key."""
    return cells[name] if name in cells else pd.Series(np.nan, index=cells.index)


def bad_steps(cells: pd.DataFrame) -> pd.Series:
    """Return the first step at which the loss is inf or NaN; NaN if it stays finite.

    If a gradient or a weight overflows, the loss of that step is finite and the next is not.
    """
    tensor = cells["outcome_tensor"].astype(object).fillna("").astype(str)
    after_loss = tensor.str.startswith("grad of ") | tensor.str.contains(".", regex=False)
    step = pd.to_numeric(cells["outcome_step"]).astype(float) + after_loss
    return step.where((cells["outcome"] == "diverged").to_numpy())


def init_name(row: pd.Series) -> str:
    """Return the label of a cell's init."""
    init = str(row["init"])
    return {"normal": "N(0, 1)", "uniform": "U(0, 1)", "pytorch_default": "PyTorch default"}.get(
        init, init.replace("_normal", "").capitalize()
    )


def input_name(row: pd.Series) -> str:
    """Return the range of a cell's input values."""
    if str(row["scaling"]) == "standardize":
        return "std"
    scale = float(row["scaling.scale"])
    return f"0..{scale:g}" if scale < 1e4 else f"0..1e{np.log10(scale):.0f}"


def share(count: int, total: int) -> str:
    """Format a count and its total.

    Examples
    --------
    >>> share(3, 4)
    '3 of 4'
    """
    return f"{count} of {total}"
