"""How much each strategy depends on the tuned value: mean score at every learning rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.compare.comparison import Compared, Group
from analysis.compare.metric import Metric
from analysis.compare.numbers import score
from analysis.figures.row_labels import room, row_labels, wrapped
from analysis.figures.style import panels_in_a_row, plain

CELL = (0.52, 0.27)  # inches
NARROWEST = 1.3  # a panel with room for its title
MAP = "cividis"  # even steps of lightness: readable in grey, and to the colour-blind
BOX: dict[str, Any] = {"fill": False, "edgecolor": "black", "linewidth": 1.4}


def tuned_values_figure(compared: Compared) -> Figure:
    """A panel per group, a row per strategy, a column per tuned value.

    The number is the mean score over seeds and settings; a dagger marks where some run diverged,
    and a box each row's best: of losses, among the values where fewest runs diverged. A dash stands
    where a setting has no mean: all its runs diverged, or none has ended.
    """
    groups, order = compared.groups, compared.order
    values = np.unique(compared.values["tuned"])
    tables = [_table(compared, group, order, values) for group in groups]
    columns = panels_in_a_row(len(groups))
    rows = math.ceil(len(groups) / columns)
    labels = row_labels(order)
    beside, high = room(labels)
    panel = max(CELL[0] * len(values), NARROWEST)
    titles = [wrapped(group.title, panel) for group in groups]
    each = max(CELL[1], high) * len(order) + 0.61 + room(titles)[1]
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
    metric = compared.question.measured
    bar = figure.colorbar(ScalarMappable(norm, _map(compared)), ax=axes, shrink=0.6, pad=0.02)
    bar.set_label(metric.words, fontsize="small")
    bar.ax.tick_params(labelsize="small")
    dagger = "   († some runs diverged)" if any((lost > 0).any() for _, lost in tables) else ""
    figure.supxlabel(f"{_axis_words(compared.question.tune)}{dagger}", fontsize="small")
    return figure


def _table(
    compared: Compared, group: Group, order: list[str], values: np.ndarray
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


def _norm(means: list[np.ndarray], compared: Compared) -> Normalize:
    finite = np.concatenate([mean[np.isfinite(mean)] for mean in means])
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    if not compared.question.measured.bounded and low > 0 and high / low > 100:
        return LogNorm(low, high)
    return Normalize(low, high)


def _map(compared: Compared) -> str:
    """Light is better."""
    return MAP if compared.question.measured.larger_is_better else f"{MAP}_r"


def _write(
    axis: Axes, mean: np.ndarray, lost: np.ndarray, compared: Compared, norm: Normalize
) -> None:
    metric = compared.question.measured
    for row, column in np.ndindex(mean.shape):
        value = float(mean[row, column])
        dagger = "†" if lost[row, column] > 0 else ""
        light = np.isfinite(value) and (float(norm(value)) > 0.55) == metric.larger_is_better
        told = (f"{value:.2f}" if metric.bounded else score(value, metric)) + dagger
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
    return r"learning rate $\eta$" if tune == "optim.lr" else plain(tune)
