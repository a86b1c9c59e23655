"""Strategies in a row, each with its seeds, its mean and the mean's 95 % interval."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.compare.comparison import Compared, Group
from analysis.compare.standings import by_seed
from analysis.figures.row_labels import room, row_labels, wrapped
from analysis.figures.style import MEASURED, PALETTE, panels_in_a_row

PANEL = (2.5, 0.24)  # inches: width, and height of one strategy
ABOVE = 0.25  # of a strategy's row: seeds stand above their mean's bar
MEAN = {"fmt": "o", "color": PALETTE[0], "markersize": 4, "linewidth": 1.6, "zorder": 3}


def standings_figure(compared: Compared) -> Figure:
    """A panel per group; the strategies stand in the order of their average place in the panels.

    A light dot is a seed, averaged over the group's settings; the dark one is the mean over seeds,
    its bar the mean's 95 % interval, which on a logarithmic axis runs into the edge where it holds
    0. A strategy that has no score in a group has no dot there.
    """
    groups, order = compared.groups, compared.order
    columns = panels_in_a_row(len(groups))
    rows = math.ceil(len(groups) / columns)
    labels = row_labels(order)
    beside, high = room(labels)
    titles = [wrapped(group.title, PANEL[0]) for group in groups]
    above = 0.66 + room(titles)[1]
    each = rows * (max(PANEL[1], high) * len(order) + above)
    size = (PANEL[0] * columns + 0.6 + beside, each + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis, group, title in zip(axes.flat, groups, titles, strict=False):
        _panel(axis, group, compared, order)
        axis.set_yticks(range(len(order)), labels, fontsize="small")
        axis.set_title(title, fontsize="small")
    metric = compared.question.measured
    better = "larger" if metric.larger_is_better else "smaller"
    figure.supxlabel(f"{metric.words} ({better} is better)", fontsize="medium")
    dot = Line2D([], [], marker="o", linestyle="", markersize=3, color=MEASURED, alpha=0.6)
    dot.set_label("one seed" + ("" if _single(groups) else ", mean over the settings"))
    mean = Line2D([], [], marker="o", markersize=4, color=PALETTE[0], linewidth=1.6)
    mean.set_label("mean over seeds, 95 % interval")
    figure.legend(
        handles=[dot, mean], loc="outside upper center", ncols=2, frameon=False, fontsize="small"
    )
    return figure


def _panel(axis: Axes, group: Group, compared: Compared, order: list[str]) -> None:
    metric = compared.question.measured
    scores = compared.scores[compared.scores["group"] == group.title]
    seeds = by_seed(scores)
    table = group.standings.set_index("strategy")
    places = np.arange(len(order))
    for place, name in zip(places, order, strict=True):
        if name in seeds:
            values = seeds[name].dropna().to_numpy(float)
            axis.scatter(
                values,
                np.full(len(values), place - ABOVE),
                s=9,
                color=MEASURED,
                alpha=0.6,
                linewidth=0,
            )
    rows = table.reindex(order)
    half = np.stack([rows["mean"] - rows["low"], rows["high"] - rows["mean"]]).astype(float)
    axis.errorbar(
        rows["mean"].to_numpy(float), places, xerr=np.nan_to_num(half).clip(min=0.0), **MEAN
    )
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize="small")
    axis.grid(axis="y", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    if not metric.bounded and _decades(rows["mean"]) > 1:
        axis.set_xscale("log")
    sns.despine(ax=axis)


def _single(groups: list[Group]) -> bool:
    return all(len(group.settings) == 1 for group in groups)


def _decades(values: pd.Series) -> float:
    positive = values[values > 0]
    return float(np.log10(positive.max() / positive.min())) if len(positive) else 0.0
