"""Queries that several figures share: rows by value, brackets, curvature, smoothed losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Bool, Float64
from matplotlib.axes import Axes

from analysis.load import Results
from experiments.schema import build_cell
from experiments.sweep.store.plan_file import read_frozen
from fanin.errors import FaninError
from fanin.probes.measure import WHOLE_NET


def select(table: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """Return the rows whose columns have these values."""
    wanted = pd.Series(True, index=table.index)
    for column, value in equal.items():
        wanted &= table[column] == value
    return table[wanted]


def bracket(
    values: Float64[np.ndarray, " value"], has: Bool[np.ndarray, " value"]
) -> tuple[float, float]:
    """The last value before the first that has it, and that one.

    Parameters
    ----------
    values
        Positive, from small to large.
    has
        Whether each has it.

    Returns
    -------
    tuple
        0 in place of the former where the very first has it, inf in place of the latter where none.

    Examples
    --------
    >>> bracket(np.array([1.0, 2.0, 4.0]), np.array([False, True, False]))
    (1.0, 2.0)
    >>> bracket(np.array([1.0, 2.0]), np.array([True, True]))
    (0.0, 1.0)
    >>> bracket(np.array([1.0, 2.0]), np.array([False, False]))
    (2.0, inf)
    """
    at = int(has.argmax()) if has.any() else len(values)
    below = float(values[at - 1]) if at else 0.0
    return below, float(values[at]) if at < len(values) else np.inf


def initial_sharpness(layers: pd.DataFrame) -> pd.Series:
    """By cell id (a string), the largest Hessian eigenvalue of the whole network at step 0.

    Of each cell the first draw, which is the network that trains.
    """
    mine = select(layers, quantity="sharpness", layer=WHOLE_NET, step=0, draw=0)
    return pd.Series(mine["value"].to_numpy(), index=mine["cell_id"].astype(str))


def smoothed(results: Results, columns: Sequence[str], steps: int) -> pd.DataFrame:
    """Training loss in stretches of so many steps.

    Parameters
    ----------
    results
        Of a sweep.
    columns
        Of the `cells` table, to be told beside each row.
    steps
        That a point is the mean of.

    Returns
    -------
    pandas.DataFrame
        A row per cell and stretch: `cell_id`, `columns`, `step` (the stretch's last) and `loss`.

    Raises
    ------
    FaninError
        No network was trained yet.
    """
    if results.curves.empty:
        raise FaninError(f"{results.folder.root}: no network was trained yet")
    losses = results.curves[results.curves["metric"] == "train_loss"]
    losses = losses.assign(cell_id=losses["cell_id"].astype(str))
    stretch = (losses["step"] // steps).rename("stretch")
    mean = losses.groupby(["cell_id", stretch])["value"].mean().rename("loss").reset_index()
    about = results.cells[["cell_id", *columns]].assign(
        cell_id=results.cells["cell_id"].astype(str)
    )
    told = mean.merge(about, on="cell_id")
    return told.assign(step=(told.pop("stretch") + 1) * steps)


def last_share(curves: pd.DataFrame, columns: Sequence[str], guessing: float) -> pd.Series:
    """Each cell's last loss over that of guessing, by `columns`; a loss that diverged is inf."""
    last = curves.groupby([*columns, "cell_id"], observed=True)["loss"].last()
    return (last / guessing).fillna(np.inf)


def guessing(results: Results) -> float:
    """Cross entropy of a network that gives every class the same chance: log(classes)."""
    line = next(iter(read_frozen(results.folder).values()))
    return float(np.log(build_cell(line["config"]).data.n_classes or 1))


def in_words(results: Results, steps: int) -> str:
    """Describe how the runs were trained and what `draw_runs` shows, for a caption's end."""
    cells = results.cells
    return (
        f"on {int(cells['data.n_train'].iloc[0])} images of {cells['data'].iloc[0]}, SGD with "
        f"momentum, learning rate {cells['optim.lr'].iloc[0]:g}: training loss, mean over {steps} "
        f"steps, a line a seed ({cells['seed'].nunique()} seeds). Dotted: the loss of guessing."
    )


def draw_runs(axis: Axes, curves: pd.DataFrame, guessing: float, **look: Any) -> None:
    """A line per cell, and the loss of guessing, dotted."""
    axis.axhline(guessing, color="0.5", linestyle=":", linewidth=1.0)
    for _, run in curves.groupby("cell_id"):
        axis.plot(run["step"], run["loss"], **{"linewidth": 1.1, **look})
    axis.set_xlabel("training step")
    axis.set_ylim(bottom=0)
    sns.despine(ax=axis)
