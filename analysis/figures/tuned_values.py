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

from analysis.compare.compared import Compared, Group
from analysis.compare.numbers import score
from analysis.figures.style import plain

CELL = (0.52, 0.27)  # inches
COLUMNS = 3
MAP = "cividis"  # even steps of lightness: readable in grey, and to the colour-blind
BOX: dict[str, Any] = {"fill": False, "edgecolor": "black", "linewidth": 1.4}


def tuned_values_figure(compared: Compared) -> Figure:
    """A panel per group, a row per strategy, a column per tuned value.

    The number is the mean score over seeds and settings; a dagger marks where some run diverged,
    and a box each row's best. Where a loss has no mean, for every run diverged, there is a dash.
    """
    groups, order = compared.groups, compared.order
    values = np.unique(compared.values["tuned"])
    tables = [_table(compared, group, order, values) for group in groups]
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    width = columns * (CELL[0] * len(values) + 0.2) + 2.2
    figure = Figure(
        figsize=(width, rows * (CELL[1] * len(order) + 0.75) + 0.4), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    norm = _norm([mean for mean, _ in tables], compared)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis, group, (mean, lost) in zip(axes.flat, groups, tables, strict=False):
        axis.imshow(mean, cmap=_map(compared), norm=norm, aspect="auto")
        _write(axis, mean, lost, compared, norm)
        axis.set_xticks(range(len(values)), [f"{v:g}" for v in values], fontsize="small")
        axis.set_yticks(range(len(order)), [plain(name) for name in order], fontsize="small")
        axis.tick_params(length=0, labelbottom=True)
        axis.set_title(plain(group.title), fontsize="small")
        axis.spines[:].set_visible(False)
    metric = compared.question.measured
    bar = figure.colorbar(ScalarMappable(norm, _map(compared)), ax=axes, shrink=0.6, pad=0.02)
    bar.set_label(metric.words, fontsize="small")
    bar.ax.tick_params(labelsize="small")
    figure.supxlabel(
        f"{_axis_words(compared.question.tune)}   († some runs diverged)", fontsize="small"
    )
    return figure


def _table(
    compared: Compared, group: Group, order: list[str], values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean score and share diverged, strategy by value."""
    mine = compared.values[compared.values["group"] == group.title]
    cells = mine.groupby(["strategy", "tuned"], sort=False)
    mean = cells["mean"].mean()
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
    merit = np.nan_to_num(metric.sign * mean, nan=-np.inf)
    for row, best in enumerate(merit.argmax(axis=1)):
        if np.isfinite(merit[row, best]) and np.ptp(merit[row]) > 0:
            axis.add_patch(Rectangle((best - 0.5, row - 0.5), 1, 1, **BOX))


def _axis_words(tune: str) -> str:
    return r"learning rate $\eta$" if tune == "optim.lr" else plain(tune)
