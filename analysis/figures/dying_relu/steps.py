"""Which step kills, and what curvature has to do with it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.dying_relu.headlines import onsets
from analysis.figures.dying_relu.runs import Runs
from analysis.figures.style import PALETTE

SIZE = (6.8, 4.9)  # inches
RANGES = {"unit": ("inputs 0 to 1", "o", 0), "raw": ("inputs 0 to 255", "s", 1)}
INITS = {0.0: ("U(0, 1)", "o", 0), -0.1: ("U(-0.1, 0.1)", "s", 1)}


def steps(runs: Runs) -> Figure:
    """Three panels: rates that kill, ratio of curvatures, gradient descent around 2 / lambda."""
    figure = Figure(figsize=SIZE, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[1, 0.9])
    axes = [figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])]
    axes.append(figure.add_subplot(grid[1, :]))
    _kills(axes[0], runs)
    _ratios(axes[1], runs)
    _descent(axes[2], runs)
    for axis, name in zip(axes, "ABC", strict=True):
        axis.set_title(name, loc="left", fontweight="bold", fontsize="medium")
        sns.despine(ax=axis)
    return figure


def _kills(axis: Axes, runs: Runs) -> None:
    found = onsets(runs, runs.kind("boundary"), ["scaling", "data.side", "seed"])
    for scaling, (words, marker, colour) in RANGES.items():
        mine = found[found["scaling"] == scaling]
        if mine.empty:
            continue
        x = mine["data.side"] * (1 + 0.06 * (mine["seed"] - mine["seed"].mean()))
        within = np.isfinite(mine["kills"]) & (mine["spares"] > 0)
        axis.vlines(x[within], mine["spares"][within], mine["kills"][within],
                    color=PALETTE[colour], linewidth=2.5)  # fmt: skip
        axis.plot(x[within], mine["kills"][within], linestyle="", marker=marker, markersize=3,
                  color=PALETTE[colour])  # fmt: skip
        line = mine.drop_duplicates("data.side").sort_values("data.side")
        axis.plot(line["data.side"], line["predicted"], color=PALETTE[colour], linewidth=1,
                  marker=marker, markersize=0, label=words)  # fmt: skip
        axis.annotate(words, (line["data.side"].iloc[0], line["predicted"].iloc[0]),
                      xytext=(14, 0), textcoords="offset points", fontsize="x-small")  # fmt: skip
    _sides(axis, found["data.side"])
    axis.set_yscale("log")
    axis.set_ylabel(r"$\eta$ that kills in one step", fontsize="small")


def _ratios(axis: Axes, runs: Runs) -> None:
    cells = runs.kind("curvature")
    measured = runs.curvatures(cells)
    ratio = (measured["filter"] / measured["linear"]).groupby("cell_id", observed=True)
    for start, (words, marker, colour) in INITS.items():
        mine = cells[cells["init.a"] == start].sort_values("data.side")
        if mine.empty:
            continue
        low, middle, high = (ratio.quantile(q).reindex(mine.index) for q in (0.25, 0.5, 0.75))
        axis.errorbar(
            mine["data.side"], middle, yerr=[middle - low, high - middle], linestyle="",
            marker=marker, markersize=4, color=PALETTE[colour], label=words,
        )  # fmt: skip
        told = [runs.theory(str(name)).curvature_ratio() for name in mine.index]
        style = "-" if start == 0 else "--"
        axis.plot(mine["data.side"], told, color=PALETTE[colour], linewidth=1, linestyle=style)
    _sides(axis, cells["data.side"])
    axis.set_yscale("log")
    axis.set_ylabel(r"$\lambda_\mathrm{filter}\,/\,\lambda_\mathrm{linear}$", fontsize="small")
    axis.legend(frameon=False, fontsize="x-small", loc="upper left")


def _sides(axis: Axes, sides: pd.Series) -> None:
    values = sorted(int(side) for side in sides.unique())
    axis.set_xscale("log")
    axis.set_xticks(values, [str(side) for side in values])
    axis.minorticks_off()
    axis.set_xlabel("side of the images (pixels)", fontsize="small")


def _descent(axis: Axes, runs: Runs) -> None:
    cells = runs.kind("descent")
    rises = _rises(runs, cells)
    layers = runs.curvatures(cells).droplevel("draw")
    looks = {
        "map black": {"marker": "x", "color": "black", "s": 16, "linewidth": 1.0},
        "alive, loss lower": {"marker": "o", "color": PALETTE[0], "s": 14},
        "alive, loss higher": {"marker": "s", "color": PALETTE[1], "s": 16},
    }
    ticks = []
    seen: set[str] = set()
    groups = cells.assign(shrunk=-cells["factor"]).groupby(["shrunk", "data.side", "seed"])
    for number, ((shrink, side, seed), mine) in enumerate(groups):
        factor = -shrink
        fate = np.where(mine["dead"], "map black", np.where(
            rises.reindex(mine.index), "alive, loss higher", "alive, loss lower"))  # fmt: skip
        seen |= set(fate)
        for name, look in looks.items():
            chosen = fate == name
            axis.scatter(mine["optim.lr"][chosen], [number] * int(chosen.sum()), **look)
        one = str(mine.index[0])
        for layer, style, scale in (("filter", "--", factor), ("linear", ":", 1.0)):
            at = 2 / (float(layers.loc[one, layer]) * scale)
            axis.plot([at, at], [number - 0.45, number + 0.45], color="0.35", linestyle=style,
                      linewidth=1.4)  # fmt: skip
        axis.plot(runs.killing_rate(one), number + 0.33, marker="^", markersize=4, linestyle="",
                  color=PALETTE[3])  # fmt: skip
        shrunk = "" if factor == 1 else f", gradient x {factor:g}"
        ticks.append(f"side {side}{shrunk}, seed {seed}")
    looks = {name: look for name, look in looks.items() if name in seen}
    axis.set_yticks(range(len(ticks)), ticks, fontsize="x-small")
    axis.set_ylim(len(ticks) - 0.4, -0.6)
    axis.set_xscale("log")
    axis.set_xlabel(r"learning rate $\eta$", fontsize="small")
    handles = [Line2D([], [], linestyle="", marker=look["marker"], color=look["color"],
                      markersize=4, label=name) for name, look in looks.items()]  # fmt: skip
    handles += [
        Line2D([], [], color="0.35", linestyle="--", label=r"$2/\lambda$ filter"),
        Line2D([], [], color="0.35", linestyle=":", label=r"$2/\lambda$ linear layer"),
        Line2D([], [], linestyle="", marker="^", markersize=4, color=PALETTE[3],
               label="predicted to kill"),
    ]  # fmt: skip
    axis.legend(handles=handles, frameon=False, fontsize="x-small", loc="center left",
                bbox_to_anchor=(1.0, 0.5))  # fmt: skip


def _rises(runs: Runs, cells: pd.DataFrame) -> pd.Series:
    """Whether the loss is higher after the first step than before it."""
    curves = runs.results.curves
    mine = curves[curves["cell_id"].isin(cells.index) & (curves["metric"] == "train_loss")]
    early = mine[mine["step"] <= 1].pivot_table(
        index="cell_id", columns="step", values="value", observed=True
    )
    return early[1] > early[0]
