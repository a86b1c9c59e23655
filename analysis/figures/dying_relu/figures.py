"""Figures of the study `dying_relu`: one network, learning rates and networks, and dying rates."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.figures.dying_relu.cells import FIRST_STEP, INPUTS, NETWORKS, PICTURE, RAW, TRAINING
from analysis.figures.dying_relu.theory import CIRCLE, CROSS
from analysis.figures.query import bracket
from analysis.figures.style import PALETTE
from analysis.scoring.effects import rows_where
from analysis.scoring.scored_study import Tables
from analysis.scoring.summary import CELLS

NETWORK_SIZE, LEARNING_SIZE, RATES_SIZE = (7.8, 3.1), (8.2, 2.9), (3.6, 2.7)  # inches
NAMES = {CIRCLE: "circle", CROSS: "cross"}
SIGNED = "cividis"  # its lightness rises from the negative to the positive end


def caption(tables: Tables) -> str:
    """Write the captions of the three figures."""
    n = tables[CELLS]["seed"].nunique()
    return (
        "The reported network before and after its first step on the cross: filter, feature maps "
        "and the gradient of the loss with respect to the feature maps, for both images. "
        f"{_setting(tables[CELLS])}The inputs do not change. Each color scale is symmetric about "
        "zero; k: thousand. One network (n = 1).\n\n"
        f"Number of n = {n} runs (seeds) that classify both images after the last step, by network "
        "and learning rate; framed: all do. Shade: share of runs whose feature maps are zero at "
        "the end. Boxes without a number did not run.\n\n"
        "Smallest learning rate at which the first step on the cross makes both feature maps zero: "
        f"one bar per seed (n = {n}), from the largest tested rate that does not to the smallest "
        "that does. Line: theory."
    )


def _setting(cells: pd.DataFrame) -> str:
    """Return a sentence on the network with saved tensors; nothing if there is none."""
    saved = rows_where(cells, {"kind": PICTURE})
    if saved.empty:
        return ""
    inputs, rate = saved[["inputs", "lr"]].iloc[0]
    pixels = "raw pixels, 0 to 255" if inputs == RAW else inputs
    return f"Inputs: {pixels}; learning rate {rate:g}. "


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the figures of the page and of the appendix."""
    cells = tables[CELLS]
    return {
        "dying_relu": _network_figure(tables["pictures"]),
        "dying_relu_learning": _learning_figure(rows_where(cells, {"kind": TRAINING})),
        "dying_relu_rates": _rates_figure(rows_where(cells, {"kind": FIRST_STEP})),
    }


def _network_figure(pictures: pd.DataFrame) -> Figure:
    """Draw the inputs of one network, and the network before and after its step on the cross."""
    figure = Figure(figsize=NETWORK_SIZE)
    # Columns: inputs, space, filter, two maps, two gradients. Rows: images, color bars, space, both
    # again. Every image has an axis for a color bar, so that all images have the same size.
    grid = figure.add_gridspec(
        5, 7, width_ratios=[1, 0.45, 0.65, 1, 1, 1, 1], height_ratios=[1, 0.04, 0.15, 1, 0.04],
        left=0.01, right=0.99, bottom=0.07, top=0.84, wspace=0.16, hspace=0.06,
    )  # fmt: skip
    columns = [("weight", -1, "filter")]
    columns += [("act", label, f"feature map,\n{NAMES[label]}") for label in NAMES]
    columns += [("input_grad", label, f"gradient,\n{NAMES[label]}") for label in NAMES]
    for row, name in enumerate(("before the step", "after the step")):
        for column, (tensor, label, title) in enumerate(columns, start=2):
            axis = figure.add_subplot(grid[3 * row, column])
            bar_axis = figure.add_subplot(grid[3 * row + 1, column])
            _draw_signed(axis, bar_axis, _values(pictures, tensor, label, row))
            if row == 0:
                axis.set_title(title, fontsize="small")
            if column == 2:
                axis.text(-0.9, 0.5, name, transform=axis.transAxes, rotation=90,
                          va="center", ha="right", fontsize="small", fontweight="bold")  # fmt: skip
    inputs = [figure.add_subplot(grid[3 * row, 0]) for row in range(2)]
    for axis, label in zip(inputs, NAMES, strict=True):
        _draw_input(axis, pictures, label)
    inputs[0].set_title("inputs", fontsize="small", fontweight="bold", pad=9)
    line_x = grid[0, 1].get_position(figure).x0
    figure.add_artist(Line2D([line_x, line_x], [0.04, 0.96], color="0.7", linewidth=0.8))
    return figure


def _values(pictures: pd.DataFrame, tensor: str, label: int, step: int) -> np.ndarray:
    rows = rows_where(pictures, {"tensor": tensor, "label": label, "step": step})
    return rows.sort_values("index")["value"].to_numpy(float)


def _draw_input(axis: Axes, pictures: pd.DataFrame, label: int) -> None:
    axis.set_axis_off()
    values = _values(pictures, "input", label, 0)
    if len(values):
        side = math.isqrt(len(values) // 3)
        image = values.reshape(3, side, side).transpose(1, 2, 0)
        axis.imshow((image / image.max()).clip(0, 1))
    axis.text(0.5, -0.03, NAMES[label], transform=axis.transAxes, ha="center", va="top",
              fontsize="small")  # fmt: skip


def _draw_signed(axis: Axes, bar_axis: Axes, values: np.ndarray) -> None:
    """Draw an image with a color scale that is symmetric about zero."""
    axis.set_axis_off()
    if not values.any():
        bar_axis.set_axis_off()
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
    bar = axis.figure.colorbar(drawn, cax=bar_axis, orientation="horizontal")
    end = short_number(limit)
    bar.set_ticks([-limit, 0, limit], labels=[f"−{end}", "0", end])
    bar_axis.tick_params(labelsize=5.5, length=2, pad=1)
    first, _, last = bar_axis.get_xticklabels()  # inside the bar, so that neighbors do not touch
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def short_number(value: float) -> str:
    """Format a positive number with two or three digits, thousands with a k.

    >>> short_number(0.912), short_number(1467.1), short_number(115155.0)
    ('0.91', '1.5k', '115k')
    """
    if value < 1000:
        return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
    thousands = value / 1000
    return f"{thousands:.0f}k" if thousands >= 10 else f"{thousands:.2g}k"


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
