"""Each remedy at each learning rate: who dies, and who classifies both images."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.dying_relu.runs import INPUTS, REMEDIES, Runs
from analysis.figures.style import PALETTE

SIZE = (6.8, 2.6)  # inches


def remedies(runs: Runs) -> Figure:
    """A panel an input range, a row a remedy, a column a learning rate."""
    trained = runs.kind("remedies")
    figure = Figure(figsize=SIZE, layout="constrained")
    ranges = [name for name in INPUTS if (trained["scaling"] == name).any()]
    axes = figure.subplots(1, len(ranges), sharey=True, squeeze=False)[0]
    rows = [name for name in REMEDIES.values() if (trained["remedy"] == name).any()]
    for axis, scaling in zip(axes, ranges, strict=True):
        _panel(axis, runs, trained[trained["scaling"] == scaling], rows)
        axis.set_title(f"inputs {INPUTS[scaling]}", fontsize="small")
    axes[0].set_yticks(range(len(rows)), rows, fontsize="x-small")
    figure.supxlabel(r"learning rate $\eta$", fontsize="small")
    return figure


def _panel(axis: Axes, runs: Runs, cells: pd.DataFrame, rows: list[str]) -> None:
    rates = sorted(cells["optim.lr"].unique())
    for (remedy, rate), mine in cells.groupby(["remedy", "optim.lr"]):
        if remedy not in rows:
            continue
        x, y = rates.index(rate), rows.index(str(remedy))
        dead, right = mine["dead_end"].mean(), int(mine["right"].sum())
        axis.add_patch(
            Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=str(1 - 0.8 * dead), edgecolor="0.6",
                      linewidth=0.4)
        )  # fmt: skip
        if right == len(mine):
            axis.add_patch(
                Rectangle((x - 0.44, y - 0.44), 0.88, 0.88, fill=False, edgecolor=PALETTE[0],
                          linewidth=1.8, zorder=3)
            )  # fmt: skip
        axis.text(x, y, str(right), ha="center", va="center", fontsize="x-small",
                  color="white" if dead > 0.5 else "black", zorder=4)  # fmt: skip
    for remedy in rows:
        mine = cells[cells["remedy"] == remedy]
        predicted = mine[(mine["init.a"] == 0) & (mine["activation"] == "relu")]
        predicted = predicted[predicted["model"] != "linear"]
        if len(predicted) and len(rates) > 1:
            at = _place(rates, runs.killing_rate(str(predicted.index[0])))
            if at < len(rates) - 0.5:
                axis.plot(at, rows.index(remedy) + 0.36, marker="^", markersize=5, zorder=5,
                          color=PALETTE[3])  # fmt: skip
    axis.set_xlim(-0.5, len(rates) - 0.5)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xticks(range(len(rates)), [_power(rate) for rate in rates], fontsize="x-small")
    axis.tick_params(length=0)


def _place(rates: list[float], rate: float) -> float:
    """Where a rate lies on an axis that numbers the rates, a factor apart."""
    step = math.log(rates[1] / rates[0])
    return math.log(rate / rates[0]) / step


def _power(rate: float) -> str:
    power = math.log10(rate)
    return f"$10^{{{power:.0f}}}$" if abs(power - round(power)) < 1e-6 else f"{rate:g}"
