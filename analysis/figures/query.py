"""Table queries shared by several figures: select rows, bracket an onset, smooth losses."""

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
from fanin.errors import FaninError
from fanin.probes.measure import WHOLE_NETWORK


def select(table: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """Return the rows in which each named column has the given value."""
    mask = pd.Series(True, index=table.index)
    for column, value in equal.items():
        mask &= table[column] == value
    return table[mask]


def bracket(
    values: Float64[np.ndarray, " value"], has: Bool[np.ndarray, " value"]
) -> tuple[float, float]:
    """Return the first value for which `has` is true, and the value before it.

    Parameters
    ----------
    values
        Positive values in ascending order.
    has
        Condition at each value.

    Returns
    -------
    tuple
        `(before, first)`. `before` is 0 if the condition is true at the first value; `first` is inf
        if the condition is true nowhere.

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
    """Return the largest Hessian eigenvalue of each whole network at step 0, by cell id (string).

    Draw 0 of each cell is the network that is trained.
    """
    rows = select(layers, quantity="sharpness", layer=WHOLE_NETWORK, step=0, draw=0)
    return pd.Series(rows["value"].to_numpy(), index=rows["cell_id"].astype(str))


def smooth_losses(results: Results, columns: Sequence[str], steps: int) -> pd.DataFrame:
    """Average the training loss over windows of steps.

    Parameters
    ----------
    results
        A sweep's results.
    columns
        Columns of the `cells` table to add to each row.
    steps
        Window length in steps.

    Returns
    -------
    pandas.DataFrame
        One row per cell and window: `cell_id`, `columns`, `step` (the window's last step), `loss`.

    Raises
    ------
    FaninError
        The sweep has no training curves yet.
    """
    if results.curves.empty:
        raise FaninError(f"{results.folder.root}: no network has been trained yet; run the sweep")
    losses = results.curves[results.curves["metric"] == "train_loss"]
    losses = losses.assign(cell_id=losses["cell_id"].astype(str))
    window = (losses["step"] // steps).rename("window")
    mean = losses.groupby(["cell_id", window])["value"].mean().rename("loss").reset_index()
    configs = results.cells[["cell_id", *columns]].assign(
        cell_id=results.cells["cell_id"].astype(str)
    )
    smooth = mean.merge(configs, on="cell_id")
    return smooth.assign(step=(smooth.pop("window") + 1) * steps)


def final_loss_ratio(curves: pd.DataFrame, columns: Sequence[str], chance_loss: float) -> pd.Series:
    """Return each cell's final loss divided by `chance_loss`, by `columns`; inf if it diverged."""
    last = curves.groupby([*columns, "cell_id"], observed=True)["loss"].last()
    return (last / chance_loss).fillna(np.inf)


def chance_loss(results: Results) -> float:
    """Return the cross entropy of uniform class probabilities, log(classes), in nats."""
    line = next(iter(results.plan.values()))
    return float(np.log(build_cell(line["config"]).data.n_classes or 1))


def training_caption(results: Results, steps: int) -> str:
    """Return the end of a caption: how the networks were trained, and what the lines show."""
    cells = results.cells
    return (
        f"on {int(cells['data.n_train'].iloc[0])} images of {cells['data'].iloc[0]}, SGD with "
        f"momentum, learning rate {cells['optim.lr'].iloc[0]:g}: training loss, mean over {steps} "
        f"steps, one line per seed ({cells['seed'].nunique()} seeds). Dotted line: loss at chance."
    )


def plot_losses(axis: Axes, curves: pd.DataFrame, chance_loss: float, **style: Any) -> None:
    """Plot one line per cell, and the loss at chance as a dotted line."""
    axis.axhline(chance_loss, color="0.5", linestyle=":", linewidth=1.0)
    for _, run in curves.groupby("cell_id"):
        axis.plot(run["step"], run["loss"], **{"linewidth": 1.1, **style})
    axis.set_xlabel("training step")
    axis.set_ylim(bottom=0)
    sns.despine(ax=axis)
