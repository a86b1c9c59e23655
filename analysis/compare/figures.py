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
from matplotlib.ticker import MaxNLocator

from analysis.compare.comparison import Group, InitComparison
from analysis.compare.spec import Metric
from analysis.compare.standings import scores_by_seed
from analysis.compare.tables import format_score
from analysis.figures.labels import in_words
from analysis.figures.style import MEASURED_COLOR, PALETTE, escape_mathtext, panel_columns

PANEL = (2.5, 0.24)  # inches: width, and height of one strategy
MAX_TICKS = 4  # intervals between the x ticks of a panel, so that the labels do not overlap
SEED_OFFSET = 0.25  # rows; the dots of seeds are above the bar of their mean
MEAN = {"fmt": "o", "color": PALETTE[0], "markersize": 4, "linewidth": 1.6, "zorder": 3}
CELL = (0.52, 0.27)  # inches
MIN_PANEL_WIDTH = 1.3  # inches, so that the title fits
COLORMAP = "cividis"  # perceptually uniform; readable in gray and with color blindness
BOX: dict[str, Any] = {"fill": False, "edgecolor": "black", "linewidth": 1.4}
CHARACTER_WIDTH, LINE_HEIGHT = 0.075, 0.14  # inches, font size "small"
MAX_LABEL_LENGTH = 44  # characters in one line of a row label


def standings_figure(comparison: InitComparison) -> Figure:
    """Draw the standings, one panel per group, with strategies ordered by average rank.

    A light dot is one seed, averaged over the group's settings. A dark dot is the mean over seeds
    with its 95 % confidence interval; on a logarithmic axis, an interval that contains 0 extends to
    the edge. A strategy without a score in a group has no dot there.
    """
    groups, order = comparison.groups, comparison.order
    columns = panel_columns(len(groups))
    rows = math.ceil(len(groups) / columns)
    labels = row_labels(order)
    label_width, label_height = label_size(labels)
    titles = [wrap_label(in_words(group.title), PANEL[0]) for group in groups]
    title_height = 0.66 + label_size(titles)[1]
    height = rows * (max(PANEL[1], label_height) * len(order) + title_height)
    size = (PANEL[0] * columns + 0.6 + label_width, height + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis, group, title in zip(axes.flat, groups, titles, strict=False):
        _panel(axis, group, comparison, order)
        axis.set_yticks(range(len(order)), labels, fontsize="small")
        axis.set_title(title, fontsize="small")
    metric = comparison.spec.metric_info
    better = "larger" if metric.larger_is_better else "smaller"
    figure.supxlabel(f"{metric.label} ({better} is better)", fontsize="medium")
    dot = Line2D([], [], marker="o", linestyle="", markersize=3, color=MEASURED_COLOR, alpha=0.6)
    dot.set_label("one seed" + ("" if _single_settings(groups) else ", mean over the settings"))
    mean = Line2D([], [], marker="o", markersize=4, color=PALETTE[0], linewidth=1.6)
    mean.set_label("mean over seeds, 95 % interval")
    figure.legend(
        handles=[dot, mean], loc="outside upper center", ncols=2, frameon=False, fontsize="small"
    )
    return figure


def _panel(axis: Axes, group: Group, comparison: InitComparison, order: list[str]) -> None:
    metric = comparison.spec.metric_info
    scores = comparison.scores[comparison.scores["group"] == group.title]
    seeds = scores_by_seed(scores)
    table = group.standings.set_index("strategy")
    positions = np.arange(len(order))
    for position, name in zip(positions, order, strict=True):
        if name in seeds:
            values = seeds[name].dropna().to_numpy(float)
            axis.scatter(
                values,
                np.full(len(values), position - SEED_OFFSET),
                s=9,
                color=MEASURED_COLOR,
                alpha=0.6,
                linewidth=0,
            )
    rows = table.reindex(order)
    half = np.stack([rows["mean"] - rows["low"], rows["high"] - rows["mean"]]).astype(float)
    axis.errorbar(
        rows["mean"].to_numpy(float), positions, xerr=np.nan_to_num(half).clip(min=0.0), **MEAN
    )
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize="small")
    axis.grid(axis="y", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    if not metric.bounded and _decades(rows["mean"]) > 1:
        axis.set_xscale("log")
    else:
        axis.xaxis.set_major_locator(MaxNLocator(MAX_TICKS, steps=[1, 2, 5, 10]))
    sns.despine(ax=axis)


def _single_settings(groups: list[Group]) -> bool:
    return all(len(group.settings) == 1 for group in groups)


def _decades(values: pd.Series) -> float:
    positive = values[values > 0]
    return float(np.log10(positive.max() / positive.min())) if len(positive) else 0.0


def tuned_values_figure(comparison: InitComparison) -> Figure:
    """Draw the mean score by strategy (row) and tuned value (column), one panel per group.

    The number is the mean score over seeds and settings. A dagger marks values where some run
    diverged. A box marks the best value of a row; for a loss, only values with the fewest diverged
    runs count. A dash marks values where some setting has no mean, because all its runs diverged or
    none is done.
    """
    groups, order = comparison.groups, comparison.order
    values = np.unique(comparison.values["tuned"])
    tables = [_table(comparison, group, order, values) for group in groups]
    columns = panel_columns(len(groups))
    rows = math.ceil(len(groups) / columns)
    labels = row_labels(order)
    label_width, label_height = label_size(labels)
    panel = max(CELL[0] * len(values), MIN_PANEL_WIDTH)
    titles = [wrap_label(in_words(group.title), panel) for group in groups]
    height = max(CELL[1], label_height) * len(order) + 0.61 + label_size(titles)[1]
    size = (columns * (panel + 0.2) + 1.4 + label_width, rows * height + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    norm = _norm([mean for mean, _ in tables], comparison)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis, title, (mean, diverged) in zip(axes.flat, titles, tables, strict=False):
        axis.imshow(mean, cmap=_colormap(comparison), norm=norm, aspect="auto")
        _annotate(axis, mean, diverged, comparison, norm)
        axis.set_xticks(range(len(values)), [f"{v:g}" for v in values], fontsize="small")
        axis.set_yticks(range(len(order)), labels, fontsize="small")
        axis.tick_params(length=0, labelbottom=True)
        axis.set_title(title, fontsize="small")
        axis.spines[:].set_visible(False)
    metric = comparison.spec.metric_info
    bar = figure.colorbar(
        ScalarMappable(norm, _colormap(comparison)), ax=axes, shrink=0.6, pad=0.02
    )
    bar.set_label(metric.label, fontsize="small")
    bar.ax.tick_params(labelsize="small")
    dagger = (
        "   († some runs diverged)" if any((diverged > 0).any() for _, diverged in tables) else ""
    )
    figure.supxlabel(f"{_axis_label(comparison.spec.tune)}{dagger}", fontsize="small")
    return figure


def _table(
    comparison: InitComparison, group: Group, order: list[str], values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return two [strategy, value] arrays: mean score and share of diverged runs."""
    group_values = comparison.values[comparison.values["group"] == group.title]
    cells = group_values.groupby(["strategy", "tuned"], sort=False)
    mean = cells["mean"].agg(lambda means: means.mean(skipna=False))
    counts = cells[["diverged", "runs"]].sum()
    diverged = counts["diverged"] / counts["runs"].clip(lower=1)
    return _grid(mean, order, values), _grid(diverged, order, values)


def _grid(cells: pd.Series, order: list[str], values: np.ndarray) -> np.ndarray:
    table = cells.unstack("tuned").reindex(index=order, columns=values)
    return table.to_numpy(float)


def _norm(means: list[np.ndarray], comparison: InitComparison) -> Normalize:
    finite = np.concatenate([mean[np.isfinite(mean)] for mean in means])
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    if not comparison.spec.metric_info.bounded and low > 0 and high / low > 100:
        return LogNorm(low, high)
    return Normalize(low, high)


def _colormap(comparison: InitComparison) -> str:
    """Return the colormap in which a lighter color is a better score."""
    return COLORMAP if comparison.spec.metric_info.larger_is_better else f"{COLORMAP}_r"


def _annotate(
    axis: Axes, mean: np.ndarray, diverged: np.ndarray, comparison: InitComparison, norm: Normalize
) -> None:
    metric = comparison.spec.metric_info
    for row, column in np.ndindex(mean.shape):
        value = float(mean[row, column])
        dagger = "†" if diverged[row, column] > 0 else ""
        light_background = (
            np.isfinite(value) and (float(norm(value)) > 0.55) == metric.larger_is_better
        )
        number = (f"{value:.2f}" if metric.bounded else format_score(value, metric)) + dagger
        axis.text(
            column,
            row,
            number if np.isfinite(value) else "–" + dagger,
            ha="center",
            va="center",
            fontsize="x-small",
            color="black" if light_background or not np.isfinite(value) else "white",
        )
    for row, best in enumerate(_best_columns(mean, diverged, metric)):
        if best is not None:
            axis.add_patch(Rectangle((best - 0.5, row - 0.5), 1, 1, **BOX))


def _best_columns(mean: np.ndarray, diverged: np.ndarray, metric: Metric) -> list[int | None]:
    """Return the column of the best value in each row; None if all its values are equal.

    For a loss, only values with the fewest diverged runs count, as in the tables.
    """
    best: list[int | None] = []
    for means, shares in zip(metric.sign * mean, diverged, strict=True):
        merit = np.where(np.isnan(means), -np.inf, means)
        if not metric.bounded and np.isfinite(means).any():
            smallest = shares[np.isfinite(means)].min()
            merit = np.where(shares > smallest, -np.inf, merit)
        all_equal = merit.max() == merit.min()
        best.append(None if all_equal else int(merit.argmax()))
    return best


def _axis_label(tune: str) -> str:
    return r"learning rate $\eta$" if tune == "optim.lr" else escape_mathtext(tune)


def wrap_label(text: str, inches: float) -> str:
    r"""Wrap text to a width in inches, with math text escaped.

    >>> wrap_label("normal std=0.01", 0.8)
    'normal\nstd=0.01'
    """
    return "\n".join(
        map(escape_mathtext, textwrap.wrap(text, max(8, int(inches / CHARACTER_WIDTH))))
    )


def row_labels(names: Sequence[str]) -> list[str]:
    """Return the row labels in words, long ones in several lines."""
    return [wrap_label(in_words(name), MAX_LABEL_LENGTH * CHARACTER_WIDTH) for name in names]


def label_size(labels: Sequence[str]) -> tuple[float, float]:
    r"""Return the largest width and the largest height of the labels, in inches.

    >>> width, height = label_size(["he_normal", "a\nb"])
    >>> round(width, 3), height
    (0.675, 0.28)
    """
    labels_as_lines = [label.split("\n") for label in labels]
    longest = max(len(line) for lines in labels_as_lines for line in lines)
    return CHARACTER_WIDTH * longest, LINE_HEIGHT * max(map(len, labels_as_lines))
