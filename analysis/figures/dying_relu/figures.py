"""Figures of the study `dying_relu`: one network, learning rates and networks, and dying rates."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.dying_relu.cells import FIRST_STEP, INPUTS, NETWORKS, TRAINING
from analysis.figures.dying_relu.theory import CIRCLE, CROSS
from analysis.figures.query import bracket
from analysis.figures.style import PALETTE
from analysis.scoring.effects import rows_where
from analysis.scoring.scored_study import Tables
from analysis.scoring.summary import CELLS

NETWORK_SIZE, LEARNING_SIZE, RATES_SIZE = (7.4, 3.4), (8.2, 2.9), (3.6, 2.7)  # inches
NAMES = {CIRCLE: "circle", CROSS: "cross"}
SIGNED = "cividis"  # its lightness rises from the negative to the positive end


def caption(tables: Tables) -> str:
    """Write the captions of the three figures."""
    n = tables[CELLS]["seed"].nunique()
    return (
        "The reported network before and after its first step on the cross: filter, feature maps "
        "and the gradient of the loss with respect to the feature maps, for both images. Each "
        "color scale is symmetric about zero. One network (n = 1).\n\n"
        f"Number of n = {n} runs (seeds) that classify both images after the last step, by network "
        "and learning rate; framed: all do. Shade: share of runs whose feature maps are zero at "
        "the end. Boxes without a number did not run.\n\n"
        "Smallest learning rate at which the first step on the cross makes both feature maps zero: "
        f"one bar per seed (n = {n}), from the largest tested rate that does not to the smallest "
        "that does. Line: theory."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the figures of the page and of the appendix."""
    cells = tables[CELLS]
    return {
        "dying_relu": _network_figure(tables["pictures"]),
        "dying_relu_learning": _learning_figure(rows_where(cells, {"kind": TRAINING})),
        "dying_relu_rates": _rates_figure(rows_where(cells, {"kind": FIRST_STEP})),
    }


def _network_figure(pictures: pd.DataFrame) -> Figure:
    """Draw one network before and after its first step on the cross."""
    figure = Figure(figsize=NETWORK_SIZE, layout="constrained")
    axes = figure.subplots(2, 6, width_ratios=[1, 0.8, 1, 1, 1, 1], squeeze=False)
    # Columns: two inputs (in the rows), filter, maps of circle and cross, gradients.
    for axis in axes.flat:
        axis.set_axis_off()
    for row, label in enumerate((CIRCLE, CROSS)):
        _draw_input(axes[row, 0], pictures, label)
    for row, name in enumerate(("before the step", "after the step")):
        columns = [("weight", -1, "filter")]
        columns += [("act", label, f"feature map,\n{NAMES[label]}") for label in NAMES]
        columns += [("input_grad", label, f"gradient,\n{NAMES[label]}") for label in NAMES]
        for column, (tensor, label, title) in enumerate(columns, start=1):
            _draw_signed(figure, axes[row, column], _values(pictures, tensor, label, row))
            axes[row, column].set_title(title, fontsize="small")
        axes[row, 1].text(-0.35, 0.5, name, transform=axes[row, 1].transAxes, rotation=90,
                          va="center", ha="right", fontsize="small", fontweight="bold")  # fmt: skip
    return figure


def _values(pictures: pd.DataFrame, tensor: str, label: int, step: int) -> np.ndarray:
    rows = rows_where(pictures, {"tensor": tensor, "label": label, "step": step})
    return rows.sort_values("index")["value"].to_numpy(float)


def _draw_input(axis: Axes, pictures: pd.DataFrame, label: int) -> None:
    values = _values(pictures, "input", label, 0)
    axis.set_title(f"input,\n{NAMES[label]}", fontsize="small")
    if len(values):
        side = math.isqrt(len(values) // 3)
        image = values.reshape(3, side, side).transpose(1, 2, 0)
        axis.imshow((image / image.max()).clip(0, 1))


def _draw_signed(figure: Figure, axis: Axes, values: np.ndarray) -> None:
    """Draw an image with a color scale that is symmetric about zero."""
    if not len(values):
        return
    if len(values) == 27:  # the filter: its three color channels below one another
        image = np.full((11, 3), np.nan)
        for channel, taps in enumerate(values.reshape(3, 3, 3)):
            image[4 * channel : 4 * channel + 3] = taps
    else:
        side = math.isqrt(len(values))
        image = values.reshape(side, side)
    limit = float(np.abs(values).max()) or 1.0
    drawn = axis.imshow(image, cmap=SIGNED, vmin=-limit, vmax=limit)
    if not values.any():
        axis.text(0.5, 0.5, "all zero", transform=axis.transAxes, ha="center", va="center",
                  fontsize="small", color="white")  # fmt: skip
        return
    bar = figure.colorbar(drawn, ax=axis, orientation="horizontal", fraction=0.08, pad=0.04)
    end = f"{limit:,.0f}" if limit >= 10 else f"{limit:.2g}"
    bar.set_ticks([-limit, 0, limit], labels=[f"−{end}", "0", end])
    bar.ax.tick_params(labelsize=5.5, length=2, pad=1)


def _learning_figure(cells: pd.DataFrame) -> Figure:
    """Draw outcomes: a panel per input range, a row per network, a column per learning rate."""
    cells = cells[cells["steps"] == cells["steps"].max()]
    figure = Figure(figsize=LEARNING_SIZE, layout="constrained")
    ranges = [name for name in INPUTS.values() if (cells["inputs"] == name).any()] or [""]
    names = [name for name in NETWORKS if (cells["network"] == name).any()]
    axes = figure.subplots(1, len(ranges), sharey=True, squeeze=False)[0]
    for axis, inputs in zip(axes, ranges, strict=True):
        rows = cells[cells["inputs"] == inputs]
        rates = sorted(rows["lr"].unique())
        for (network, rate), runs in rows.groupby(["network", "lr"]):
            _draw_runs(axis, rates.index(rate), names.index(str(network)), runs)
        axis.set_title(inputs, fontsize="small")
        axis.set_xlim(-0.5, len(rates) - 0.5)
        axis.set_ylim(len(names) - 0.5, -0.5)
        labels = [f"{rate:.0e}".replace("e-0", "e-").replace("e+00", "") for rate in rates]
        axis.set_xticks(range(len(rates)), labels)
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(length=0, labelsize="x-small")
    figure.supxlabel("learning rate", fontsize="small")
    return figure


def _draw_runs(axis: Axes, x: int, y: int, runs: pd.DataFrame) -> None:
    dead, n_correct = runs["dead_at_end"].mean(), int(runs["correct"].sum())
    box = Rectangle(
        (x - 0.5, y - 0.5), 1, 1, facecolor=str(1 - 0.8 * dead), edgecolor="0.6", lw=0.4
    )
    axis.add_patch(box)
    if n_correct == len(runs):
        frame = Rectangle(
            (x - 0.43, y - 0.43), 0.86, 0.86, fill=False, edgecolor=PALETTE[0], lw=1.8
        )
        axis.add_patch(frame)
    color = "white" if dead > 0.5 else "black"
    axis.text(x, y, str(n_correct), ha="center", va="center", fontsize="x-small", color=color)


def _rates_figure(cells: pd.DataFrame) -> Figure:
    figure = Figure(figsize=RATES_SIZE, layout="constrained")
    axis = figure.subplots()
    seeds = sorted(cells["seed"].unique())
    for (side, seed), rows in cells.groupby(["side", "seed"]):
        ordered = rows.sort_values("lr")
        low, high = bracket(ordered["lr"].to_numpy(), ordered["dead"].to_numpy() == 1)
        if low > 0 and np.isfinite(high):
            x = float(side) * 1.06 ** (seeds.index(seed) - (len(seeds) - 1) / 2)
            axis.vlines(x, low, high, color=PALETTE[0], linewidth=2.5)
    theory = cells.groupby("side")["rate_predicted"].first()
    axis.plot(theory.index, theory, color="black", linewidth=1)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(theory.index, [f"{side:.0f}" for side in theory.index])
    axis.set_xlabel("side of the images (pixels)")
    axis.set_ylabel("learning rate that kills")
    sns.despine(ax=axis)
    return figure
