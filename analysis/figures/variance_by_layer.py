"""Figure of measured and predicted second moments by layer, one panel per init and activation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.figures.labels import in_words
from analysis.figures.query import select
from analysis.figures.style import MEASURED_COLOR, THEORY_LINES, escape_mathtext
from analysis.predictions import main_image
from analysis.theory_comparison import TheoryComparison

QUANTITY = "preact_m2"
PANEL = (2.3, 1.9)  # inches
TITLE_WIDTH = 30  # characters per line of a panel title
MEDIAN_STYLE: dict[str, Any] = {
    "color": "black", "marker": "_", "markersize": 8, "markeredgewidth": 1.4, "linestyle": "",
    "label": "median of the draws", "zorder": 4,
}  # fmt: skip
MEAN_STYLE: dict[str, Any] = {
    "color": "black", "marker": "D", "markersize": 3.6, "markerfacecolor": "white",
    "markeredgewidth": 0.8, "linestyle": "", "label": "mean of the draws", "zorder": 5,
}  # fmt: skip


def figures(comparisons: Sequence[TheoryComparison]) -> Iterator[tuple[str, Figure]]:
    """Draw one figure per network; yield its file name and the figure."""
    for network, group in by_network(comparisons).items():
        yield file_name(network), network_figure(group)


def file_name(network: str) -> str:
    """Return the file name of a network's figure, without suffix."""
    return "-".join(filter(None, ["variance_by_layer", re.sub(r"[^\w.=-]+", "_", network)]))


def by_network(comparisons: Sequence[TheoryComparison]) -> dict[str, list[TheoryComparison]]:
    """Group settings by all axis values except init and activation."""
    grouped: dict[str, list[TheoryComparison]] = {}
    for comparison in comparisons:
        keys = comparison.setting.axis_values
        groups = [g for g in dict.fromkeys(map(_group, keys)) if g not in ("init", "activation")]
        rest = " ".join(_label(comparison, group) for group in groups)
        grouped.setdefault(rest, []).append(comparison)
    return grouped


def network_figure(comparisons: Sequence[TheoryComparison]) -> Figure:
    """Draw one network's settings: a column per init, a row per activation.

    The moments are those of the mean over the probe set, or of its first predicted image. The lines
    predict the mean over draws. A draw's moment is about a product of one random factor per layer,
    so that its logarithm is about normal: a few large draws raise the mean, and most lie below it.
    """
    rows = list(dict.fromkeys(_label(c, "activation") for c in comparisons))
    columns = list(dict.fromkeys(_label(c, "init") for c in comparisons))
    # pyplot would keep every figure in memory.
    figure = Figure(
        figsize=(PANEL[0] * len(columns) + 0.6, PANEL[1] * len(rows) + 1.0), layout="constrained"
    )
    axes = figure.subplots(
        len(rows),
        len(columns),
        sharex=True,
        sharey="col",  # inits differ by tens of decades, activations of one init by few
        squeeze=False,
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
        title = " · ".join(in_words(part) for part in (columns[column], rows[row]) if part)
        axis.set_title(escape_mathtext(fill(title, TITLE_WIDTH)), fontsize="small")
    for column in axes.T:
        shown = [axis for axis in column if axis.get_visible()]
        if shown:
            _limits(shown[0])
            shown[-1].tick_params(labelbottom=True)
    figure.supxlabel("weight layer $l$", fontsize="medium")
    moment = "second moment of the" + (" " if len(rows) > 1 else "\n") + "pre-activation"
    figure.supylabel(rf"{moment} $\mathbb{{E}}[y_l^2]$", fontsize="medium", ha="center")
    _legend(figure, comparisons, wide=len(columns) > 2)
    return figure


def _legend(figure: Figure, comparisons: Sequence[TheoryComparison], wide: bool) -> None:
    draws = max(map(_draws, comparisons))
    theories = {
        theory for c in comparisons if not c.predicted.empty for theory in c.predicted["theory"]
    }
    dot = Line2D([], [], marker="o", linestyle="", markersize=3, color=MEASURED_COLOR)
    dot.set_label(f"measured, one dot per draw of the weights ({draws} draws)")
    marks = [Line2D([], [], **style) for style in (MEAN_STYLE, MEDIAN_STYLE)]
    lines = [
        Line2D([], [], **{"linewidth": 1.6} | style)
        for theory, style in THEORY_LINES.items()
        if theory in theories
    ]
    figure.legend(
        handles=[dot, *marks, *lines],
        loc="outside upper center",
        ncols=3 if wide else 1,
        frameon=False,
        fontsize="small",
    )


def _limits(axis: Axes) -> None:
    """Extend the y axis to at least two decades, so that it has two ticks."""
    low, high = axis.get_ylim()
    if high - low < 2:
        middle = (low + high) / 2
        axis.set_ylim(middle - 1, middle + 1)


def _panel(axis: Axes, comparison: TheoryComparison) -> None:
    image = main_image(comparison.predicted)
    rows = select(comparison.draws, quantity=QUANTITY, image=image)
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
        color=MEASURED_COLOR,
    )
    median = measured.groupby("layer")["decades"].median()
    axis.plot(median.index, median, **MEDIAN_STYLE)
    mean = rows["value"].groupby(rows["layer"]).mean()
    axis.plot(mean.index, _decades(mean), **MEAN_STYLE)
    for theory, style in THEORY_LINES.items():
        if comparison.predicted.empty:
            continue
        line = select(comparison.predicted, theory=theory, quantity=QUANTITY, image=image)
        line = line.sort_values("layer")
        # A line through one point is invisible; markers of different widths all stay visible.
        width = {"he": 10, "mean_field": 20}.get(theory, 30)
        marker: dict[str, Any] = {"marker": "_", "markersize": width} if len(line) == 1 else {}
        axis.plot(line.layer, _decades(line.value), **{"linewidth": 1.6} | style | marker)
    if measured.decades.isna().all():
        note = "all measured moments\nare zero or infinite"
        axis.text(0.5, 0.5, note, transform=axis.transAxes, ha="center", fontsize="small")
    axis.set(xlabel="", ylabel="", xlim=(0.7, max(rows.layer.max(), 1) + 0.3))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=5))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"$10^{{{value:.0f}}}$"))
    sns.despine(ax=axis)


def _decades(values: pd.Series) -> np.ndarray:
    """Return log10 of the values, NaN for zero and non-finite values."""
    array = values.to_numpy(float)
    array = np.where(np.isfinite(array) & (array > 0), array, np.nan)
    return np.asarray(np.log10(array))


def _draws(comparison: TheoryComparison) -> int:
    return len(comparison.draws[["seed_weights", "draw"]].drop_duplicates())


def _group(key: str) -> str:
    return key.partition(".")[0]


def _label(comparison: TheoryComparison, group: str) -> str:
    values = [
        str(value) if key == group else f"{key.partition('.')[2]}={value}"
        for key, value in comparison.setting.axis_values.items()
        if _group(key) == group
    ]
    return " ".join(values)
