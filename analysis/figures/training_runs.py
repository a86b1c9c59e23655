"""Outcomes and curves of training runs, for studies that ask which networks train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from analysis.figures.query import chance_loss, select
from analysis.load import Results
from fanin.errors import FaninError

N_POINTS = 20  # of a curve
LAST = 0.1  # share of the steps whose mean is the final loss


def training_outcomes(
    results: Results, design: Mapping[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the training loss of each cell, divided by the loss at chance.

    Parameters
    ----------
    results
        A sweep's results.
    design
        Columns of the `cells` table, by the name that they get.

    Returns
    -------
    outcomes
        One row per cell: `design`, `loss` (mean over the last tenth of the steps) and `mean_loss`
        (mean over all steps). A loss above chance counts as chance (1), and so does every loss of
        a network that diverged.
    curves
        `design`, `step` and `loss`: means over a twentieth of the steps.

    Raises
    ------
    FaninError
        No network has been trained yet.
    """
    if results.curves.empty:
        raise FaninError(f"{results.folder.root}: no network has been trained yet; run the sweep")
    cells = results.cells
    about = cells[list(design.values())].rename(columns={old: new for new, old in design.items()})
    for column in about.select_dtypes("category"):
        about[column] = about[column].astype(str)
    about = about.assign(cell_id=cells["cell_id"].astype(str)).set_index("cell_id")
    losses = select(results.curves, metric="train_loss")
    by_step = losses.assign(cell_id=losses["cell_id"].astype(str)).pivot_table(
        index="cell_id", columns="step", values="value", aggfunc="last"
    )
    relative = (by_step.reindex(about.index) / chance_loss(results)).replace(np.inf, 1.0)
    relative = relative.fillna(1.0).clip(upper=1.0)
    relative[(cells["outcome"] == "diverged").to_numpy()] = 1.0
    n_last = max(1, int(LAST * relative.shape[1]))
    outcomes = about.assign(
        loss=relative.iloc[:, -n_last:].mean(axis=1), mean_loss=relative.mean(axis=1)
    )
    window = max(1, relative.shape[1] // N_POINTS)
    groups = np.arange(relative.shape[1]) // window
    smooth = relative.T.groupby(groups).mean().T
    smooth.columns = [(n + 1) * window for n in smooth.columns]
    curves = smooth.melt(ignore_index=False, var_name="step", value_name="loss")
    return outcomes.reset_index(drop=True), about.join(curves).reset_index(drop=True)


def gradient_decay(results: Results) -> pd.Series:
    """Return the change of the gradient per layer, backward, in factors of 2, by cell id.

    It is the slope of log2 of the second moment of the gradient with respect to the
    pre-activations against the number of layers below the output, at initialization.
    """
    rows = select(results.layers, quantity="grad_m2", image=-1, step=0, draw=0)
    rows = rows[rows["layer"] > 0]
    slopes = {}
    for cell, layers in rows.groupby(rows["cell_id"].astype(str)):
        hidden = layers[(layers["layer"] < layers["layer"].max()) & (layers["value"] > 0)]
        if len(hidden) > 1:
            line = np.polyfit(-hidden["layer"].to_numpy(float), np.log2(hidden["value"]), 1)
            slopes[str(cell)] = float(line[0])
    return pd.Series(slopes, dtype=float)


def plot_runs(axis: Axes, curves: pd.DataFrame, **style: Any) -> None:
    """Plot the mean of runs over seeds as a line, and their range as a band."""
    groups = curves.groupby("step")["loss"]
    axis.plot(groups.mean().index, groups.mean(), **style)
    axis.fill_between(
        groups.mean().index, groups.min(), groups.max(), color=style.get("color"), alpha=0.15,
        linewidth=0,
    )  # fmt: skip
    axis.set_xlabel("training step")
    axis.set_ylim(0, 1.05)
    sns.despine(ax=axis)


def best_rates(cells: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    """Return the learning rate with the smallest mean final loss of each arm: `arms`, `lr`."""
    means = cells.groupby([*arms, "lr"])["loss"].mean().reset_index()
    return means.loc[means.groupby(arms)["loss"].idxmin(), [*arms, "lr"]]
