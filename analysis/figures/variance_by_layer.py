"""Measured draws and predicted second moments against depth, a panel per init and activation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.figures.style import MEASURED, RUNG_LINES
from analysis.measured import Comparison

QUANTITY = "preact_m2"
PANEL = (2.3, 1.9)  # inches


def figures(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, Figure]]:
    """One figure a network (everything that is neither init nor activation), with its name."""
    for network, mine in _by_network(comparisons).items():
        words = re.sub(r"[^\w.=-]+", "_", network)
        yield "-".join(filter(None, ["variance_by_layer", words])), _figure(mine)


def _by_network(comparisons: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    grouped: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        words = comparison.setting.words
        groups = [g for g in dict.fromkeys(map(_group, words)) if g not in ("init", "activation")]
        rest = " ".join(_label(comparison, group) for group in groups)
        grouped.setdefault(rest, []).append(comparison)
    return grouped


def _figure(comparisons: Sequence[Comparison]) -> Figure:
    rows = list(dict.fromkeys(_label(c, "activation") for c in comparisons))
    columns = list(dict.fromkeys(_label(c, "init") for c in comparisons))
    figure, axes = plt.subplots(
        len(rows),
        len(columns),
        figsize=(PANEL[0] * len(columns) + 0.6, PANEL[1] * len(rows) + 1.0),
        sharex=True,
        sharey="col",  # inits differ by tens of decades, activations under one init by few
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_visible(False)
    for comparison in comparisons:
        row, column = (
            rows.index(_label(comparison, "activation")),
            columns.index(_label(comparison, "init")),
        )
        axis = axes[row, column]
        axis.set_visible(True)
        _panel(axis, comparison)
        title = " · ".join(part for part in (columns[column], rows[row]) if part)
        axis.set_title(title, fontsize="small")
    figure.supxlabel("weight layer $l$", fontsize="medium")
    figure.supylabel(r"second moment of the pre-activation $\mathbb{E}[y_l^2]$", fontsize="medium")
    draws = max(_draws(comparison) for comparison in comparisons)
    dot = Line2D([], [], marker="o", linestyle="", markersize=3, color=MEASURED)
    dot.set_label(f"measured, one dot per draw of the weights ({draws} draws)")
    lines = [Line2D([], [], linewidth=1.6, **style) for style in RUNG_LINES.values()]
    figure.legend(
        handles=[dot, *lines], loc="outside upper center", ncols=3, frameon=False, fontsize="small"
    )
    return figure


def _panel(axis: Axes, comparison: Comparison) -> None:
    rows = comparison.draws
    rows = rows[(rows.quantity == QUANTITY) & (rows.image == -1)]
    measured = pd.DataFrame({"layer": rows.layer, "decades": _decades(rows.value)})
    sns.scatterplot(
        measured,
        x="layer",
        y="decades",
        ax=axis,
        s=9,
        alpha=0.5,
        linewidth=0,
        legend=False,
        color=MEASURED,
    )
    for rung, style in RUNG_LINES.items():
        theory = comparison.predicted
        if theory.empty:
            continue
        mine = theory[
            (theory.rung == rung) & (theory.quantity == QUANTITY) & (theory.image == -1)
        ].sort_values("layer")
        axis.plot(mine.layer, _decades(mine.value), linewidth=1.6, **style)
    axis.set(xlabel="", ylabel="")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=2, nbins=5))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"$10^{{{value:.0f}}}$"))
    axis.margins(x=0.08)
    low, high = axis.get_ylim()
    if high - low < 2:  # less than two decades: room for two ticks, and no drama
        middle = (low + high) / 2
        axis.set_ylim(min(low, middle - 1), max(high, middle + 1))
    sns.despine(ax=axis)


def _decades(values: pd.Series) -> np.ndarray:
    """log10, with what is zero or has overflowed left out."""
    array = values.to_numpy(float)
    array = np.where(np.isfinite(array) & (array > 0), array, np.nan)
    return np.asarray(np.log10(array))


def _draws(comparison: Comparison) -> int:
    return len(comparison.draws[["seed_weights", "draw"]].drop_duplicates())


def _group(key: str) -> str:
    return key.partition(".")[0]


def _label(comparison: Comparison, group: str) -> str:
    words = comparison.setting.words
    own = [
        str(value) if key == group else f"{key.partition('.')[2]}={value}"
        for key, value in words.items()
        if _group(key) == group
    ]
    return " ".join(own)
