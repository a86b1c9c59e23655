"""Figures of a comparison: the standings, and the mean score at every tuned value."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.compare.comparison import Group, InitComparison, scores_by_seed
from analysis.compare.spec import Metric
from analysis.compare.tables import format_score
from analysis.figures.style import MEASURED_COLOR, PALETTE, escape_mathtext, panel_columns

PANEL = (2.5, 0.24)  # inches: width, and height of one strategy
ABOVE = 0.25  # of a strategy's row: seeds stand above their mean's bar
MEAN = {"fmt": "o", "color": PALETTE[0], "markersize": 4, "linewidth": 1.6, "zorder": 3}
CELL = (0.52, 0.27)  # inches
NARROWEST = 1.3  # a panel with room for its title
MAP = "cividis"  # even steps of lightness: readable in grey, and to the colour-blind
BOX: dict[str, Any] = {"fill": False, "edgecolor": "black", "linewidth": 1.4}
CHARACTER, LINE = 0.075, 0.14  # inches, of small type
WIDEST = 44  # characters of a row's label in one line


def standings_figure(compared: InitComparison) -> Figure:
    """A panel per group; the strategies stand in the order of their average place in the panels.

    A light dot is a seed, averaged over the group's settings; the dark one is the mean over seeds,
    its bar the mean's 95 % interval, which on a logarithmic axis runs into the edge where it holds
    0. A strategy that has no score in a group has no dot there.
    """
    groups, order = compared.groups, compared.order
    columns = panel_columns(len(groups))
    rows = math.ceil(len(groups) / columns)
    labels = row_labels(order)
    beside, high = label_size(labels)
    titles = [wrap_label(group.title, PANEL[0]) for group in groups]
    above = 0.66 + label_size(titles)[1]
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
    metric = compared.spec.metric_info
    better = "larger" if metric.larger_is_better else "smaller"
    figure.supxlabel(f"{metric.label} ({better} is better)", fontsize="medium")
    dot = Line2D([], [], marker="o", linestyle="", markersize=3, color=MEASURED_COLOR, alpha=0.6)
    dot.set_label("one seed" + ("" if _single(groups) else ", mean over the settings"))
    mean = Line2D([], [], marker="o", markersize=4, color=PALETTE[0], linewidth=1.6)
    mean.set_label("mean over seeds, 95 % interval")
    figure.legend(
        handles=[dot, mean], loc="outside upper center", ncols=2, frameon=False, fontsize="small"
    )
    return figure


def _panel(axis: Axes, group: Group, compared: InitComparison, order: list[str]) -> None:
    metric = compared.spec.metric_info
    scores = compared.scores[compared.scores["group"] == group.title]
    seeds = scores_by_seed(scores)
    table = group.standings.set_index("strategy")
    places = np.arange(len(order))
    for place, name in zip(places, order, strict=True):
        if name in seeds:
            values = seeds[name].dropna().to_numpy(float)
            axis.scatter(
                values,
                np.full(len(values), place - ABOVE),
                s=9,
                color=MEASURED_COLOR,
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


def tuned_values_figure(compared: InitComparison) -> Figure:
    """A panel per group, a row per strategy, a column per tuned value.

    The number is the mean score over seeds and settings; a dagger marks where some run diverged,
    and a box each row's best: of losses, among the values where fewest runs diverged. A dash stands
    where a setting has no mean: all its runs diverged, or none has ended.
    """
    groups, order = compared.groups, compared.order
    values = np.unique(compared.values["tuned"])
    tables = [_table(compared, group, order, values) for group in groups]
    columns = panel_columns(len(groups))
    rows = math.ceil(len(groups) / columns)
    labels = row_labels(order)
    beside, high = label_size(labels)
    panel = max(CELL[0] * len(values), NARROWEST)
    titles = [wrap_label(group.title, panel) for group in groups]
    each = max(CELL[1], high) * len(order) + 0.61 + label_size(titles)[1]
    size = (columns * (panel + 0.2) + 1.4 + beside, rows * each + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    norm = _norm([mean for mean, _ in tables], compared)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis, title, (mean, lost) in zip(axes.flat, titles, tables, strict=False):
        axis.imshow(mean, cmap=_map(compared), norm=norm, aspect="auto")
        _write(axis, mean, lost, compared, norm)
        axis.set_xticks(range(len(values)), [f"{v:g}" for v in values], fontsize="small")
        axis.set_yticks(range(len(order)), labels, fontsize="small")
        axis.tick_params(length=0, labelbottom=True)
        axis.set_title(title, fontsize="small")
        axis.spines[:].set_visible(False)
    metric = compared.spec.metric_info
    bar = figure.colorbar(ScalarMappable(norm, _map(compared)), ax=axes, shrink=0.6, pad=0.02)
    bar.set_label(metric.label, fontsize="small")
    bar.ax.tick_params(labelsize="small")
    dagger = "   († some runs diverged)" if any((lost > 0).any() for _, lost in tables) else ""
    figure.supxlabel(f"{_axis_words(compared.spec.tune)}{dagger}", fontsize="small")
    return figure


def _table(
    compared: InitComparison, group: Group, order: list[str], values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean score and share diverged, strategy by value."""
    mine = compared.values[compared.values["group"] == group.title]
    cells = mine.groupby(["strategy", "tuned"], sort=False)
    mean = cells["mean"].agg(lambda means: means.mean(skipna=False))
    counts = cells[["diverged", "runs"]].sum()
    lost = counts["diverged"] / counts["runs"].clip(lower=1)
    return _grid(mean, order, values), _grid(lost, order, values)


def _grid(cells: pd.Series, order: list[str], values: np.ndarray) -> np.ndarray:
    table = cells.unstack("tuned").reindex(index=order, columns=values)
    return table.to_numpy(float)


def _norm(means: list[np.ndarray], compared: InitComparison) -> Normalize:
    finite = np.concatenate([mean[np.isfinite(mean)] for mean in means])
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    if not compared.spec.metric_info.bounded and low > 0 and high / low > 100:
        return LogNorm(low, high)
    return Normalize(low, high)


def _map(compared: InitComparison) -> str:
    """Light is better."""
    return MAP if compared.spec.metric_info.larger_is_better else f"{MAP}_r"


def _write(
    axis: Axes, mean: np.ndarray, lost: np.ndarray, compared: InitComparison, norm: Normalize
) -> None:
    metric = compared.spec.metric_info
    for row, column in np.ndindex(mean.shape):
        value = float(mean[row, column])
        dagger = "†" if lost[row, column] > 0 else ""
        light = np.isfinite(value) and (float(norm(value)) > 0.55) == metric.larger_is_better
        told = (f"{value:.2f}" if metric.bounded else format_score(value, metric)) + dagger
        axis.text(
            column,
            row,
            told if np.isfinite(value) else "–" + dagger,
            ha="center",
            va="center",
            fontsize="x-small",
            color="black" if light or not np.isfinite(value) else "white",
        )
    for row, best in enumerate(_best(mean, lost, metric)):
        if best is not None:
            axis.add_patch(Rectangle((best - 0.5, row - 0.5), 1, 1, **BOX))


def _best(mean: np.ndarray, lost: np.ndarray, metric: Metric) -> list[int | None]:
    """Each row's best value, as the tables choose it; None where no other can be told from it."""
    found: list[int | None] = []
    for means, shares in zip(metric.sign * mean, lost, strict=True):
        merit = np.where(np.isnan(means), -np.inf, means)
        if not metric.bounded and np.isfinite(means).any():
            least = shares[np.isfinite(means)].min()
            merit = np.where(shares > least, -np.inf, merit)
        level = merit.max() == merit.min()
        found.append(None if level else int(merit.argmax()))
    return found


def _axis_words(tune: str) -> str:
    return r"learning rate $\eta$" if tune == "optim.lr" else escape_mathtext(tune)


def wrap_label(text: str, inches: float) -> str:
    """Text in lines of that width, each as it is (`analysis.figures.style.escape_mathtext`).

    >>> wrap_label("normal std=0.01", 0.8)
    'normal\\nstd=0.01'
    """
    return "\n".join(map(escape_mathtext, textwrap.wrap(text, max(8, int(inches / CHARACTER)))))


def row_labels(names: Sequence[str]) -> list[str]:
    """Names of rows, the longest in several lines."""
    return [wrap_label(name, WIDEST * CHARACTER) for name in names]


def label_size(labels: Sequence[str]) -> tuple[float, float]:
    """Width of the widest label and height of the highest, in inches.

    >>> width, height = label_size(["he_normal", "a\\nb"])
    >>> round(width, 3), height
    (0.675, 0.28)
    """
    lines = [label.split("\n") for label in labels]
    widest = max(len(line) for each in lines for line in each)
    return CHARACTER * widest, LINE * max(map(len, lines))
