"""The figures of `normalized_networks`: moments by layer, and what the networks learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.normalized_networks import LOOKS, NORMS, SIZE, Networks

MOMENTS_SIZE, ACCURACY_SIZE = (6.8, 2.6), (6.8, 2.5)  # inches


def moments_figure(found: Networks) -> Figure:
    """Second moment behind normalization and ReLU by layer, a normalization a panel."""
    figure = Figure(figsize=MOMENTS_SIZE, layout="constrained")
    axes = figure.subplots(1, len(NORMS), sharey=True)
    behind = found.moments[found.moments["quantity"] == "act_m2"]
    deep = behind[behind["model.depth"] == behind["model.depth"].max()]
    for axis, (norm, words) in zip(axes, NORMS.items(), strict=True):
        for init, look in LOOKS.items():
            mine = deep[(deep["model.norm"] == norm) & (deep["init"] == init)]
            for number, (_, rows) in enumerate(mine.groupby("model.width")):
                axis.plot(
                    rows["layer"], rows["value"], **look, linewidth=0.7 + 0.9 * number,
                    markersize=2.5 + 2 * number, markerfacecolor="none",
                    label=init if number else None,
                )  # fmt: skip
        axis.axhline(0.5, color="0.4", linestyle=":", linewidth=0.8)
        axis.set_yscale("log")
        axis.set_title(words, fontsize="small")
        axis.minorticks_off()
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        sns.despine(ax=axis)
    axes[0].set_ylabel(r"behind ReLU $\mathbb{E}[x_l^2]$" "\n(dimensionless)", fontsize="small")
    figure.supxlabel("layer $l$", fontsize="small")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, [f"{label} weights" for label in labels],
        loc="outside upper center", ncols=3, frameon=False, fontsize="small",
    )  # fmt: skip
    return figure


def accuracy_figure(found: Networks) -> Figure:
    """Test accuracy, a normalization a row, an init a panel, a size a column."""
    figure = Figure(figsize=ACCURACY_SIZE, layout="constrained")
    axes = figure.subplots(1, len(LOOKS), sharey=True)
    for axis, init in zip(axes, LOOKS, strict=True):
        mine = found.trained[found.trained["init"] == init]
        table = mine.pivot(index="model.norm", columns=SIZE, values=["accuracy", "diverged"])
        table = table.loc[list(NORMS)].sort_index(axis=1)
        _map(axis, table["accuracy"].astype(float), table["diverged"].astype(bool))
        axis.set_title(f"{init} weights", fontsize="small")
    axes[0].set_yticks(range(len(NORMS)), list(NORMS.values()), fontsize="small")
    bar = figure.colorbar(axes[0].images[0], ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("test accuracy", fontsize="small")
    figure.supxlabel("depth x width", fontsize="small")
    return figure


def _map(axis: Axes, accuracy: pd.DataFrame, lost: pd.DataFrame) -> None:
    axis.imshow(accuracy, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(accuracy.to_numpy()):
        axis.text(
            column, row, "x" if lost.iloc[row, column] else f"{value:.2f}",
            ha="center", va="center", fontsize="x-small",
            color="black" if value > 0.5 else "white",
        )  # fmt: skip
    names = [f"{depth} x {width}" for depth, width in accuracy.columns]
    axis.set_xticks(range(len(names)), names, fontsize="x-small", rotation=30)
    axis.tick_params(length=0)
