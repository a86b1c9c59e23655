"""Figures of the study `large_outputs`: causes and remedies, and sizes before training."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke

from analysis.figures.large_outputs.cells import (
    CAUSES,
    HEALTHY,
    HEALTHY_FACTOR,
    LARGEST,
    NOTHING,
    OTHER_SUSPECTS,
    REGRESSION,
    REMEDIES,
    SAME_CLASSES,
)
from analysis.figures.query import select
from analysis.figures.style import PALETTE
from analysis.scoring.effects import rows_where
from analysis.scoring.scored_study import Tables
from analysis.scoring.summary import CELLS

MAP_SIZE, START_SIZE = (8.4, 4.6), (6.8, 3.3)  # inches
COLOR_LIMITS = (-1.0, 12.0)  # log10 of the size
COLORMAP = "viridis"
ACCURACY_MARGIN = 0.1  # a network is healthy if its accuracy is at most this much lower
FRAME: dict[str, Any] = {
    "fill": False,
    "edgecolor": "white",
    "linewidth": 1.2,
    "zorder": 2,
}  # black on both sides
FRAME_EFFECTS = [Stroke(linewidth=3, foreground="black"), Normal()]
NOT_RUN: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.8", "hatch": "///"}


def caption(tables: Tables) -> str:
    """Write the captions of the map and of the sizes at the start."""
    n = tables[CELLS]["seed"].nunique()
    setting = tables["setting"].iloc[0]
    return (
        "Largest outputs during training (root mean square of the logits) by cause and remedy: "
        f"geometric mean over n = {n} seeds, and in the second line the mean test accuracy (for "
        "the regression: the share of the variance that it explains). “inf”: every seed "
        "diverged; “inf in 2”: two did. Framed: as in the healthy network with the same remedy, "
        f"with outputs at most {HEALTHY_FACTOR:.0f} times as large and the smallest accuracy at "
        f"most {ACCURACY_MARGIN:g} below its mean (regression: a classification of the same "
        "images, with the lower rate or without remedy). Hatched: not run (the remedy undoes the "
        "cause, or the outputs are not large). Lower rate: 10 times, for the large learning rate "
        "20 times.\n\n"
        "Outputs before training (bars: range, and tick: geometric mean of "
        f"{setting['probe.draws']:.0f} draws in each of n = {n} seeds), as predicted by theory "
        f"(diamonds), and largest in {setting['train.steps']:.0f} training steps (circles: "
        "geometric mean over seeds; arrows: it diverged in some seed)."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the map of causes and remedies, and the sizes before training."""
    return {
        "large_outputs": _map(tables[CELLS]),
        "large_outputs_start": _start(tables[CELLS], tables["draws"]),
    }


def _map(cells: pd.DataFrame) -> Figure:
    present = set(cells["cause"])
    causes = [name for name in (HEALTHY, *CAUSES, *OTHER_SUSPECTS) if name in present]
    figure = Figure(figsize=MAP_SIZE, layout="constrained")
    axis = figure.subplots()
    axis.patch.set(**NOT_RUN)
    scale = ScalarMappable(Normalize(*COLOR_LIMITS), COLORMAP)
    for y, name in enumerate(causes):
        for x, by in enumerate(REMEDIES):
            rows = rows_where(cells, {"cause": name, "remedy": by})
            same = SAME_CLASSES if name == REGRESSION else HEALTHY
            healthy = rows_where(cells, {"cause": same, "remedy": by})
            if healthy.empty:
                healthy = rows_where(cells, {"cause": same, "remedy": NOTHING})
            _box(axis, (x, y), rows, healthy, scale)
    axis.set_xlim(-0.5, len(REMEDIES) - 0.5)
    axis.set_ylim(len(causes) - 0.5, -0.5)
    axis.set_xticks(range(len(REMEDIES)), [fill(name, 12) for name in REMEDIES])
    axis.set_yticks(range(len(causes)), causes)
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=7.5)
    axis.set_xlabel("remedy")
    axis.xaxis.set_label_position("top")
    axis.set_ylabel("cause, one at a time")
    sns.despine(ax=axis, left=True, bottom=True)
    bar = figure.colorbar(scale, ax=axis, extend="both", fraction=0.03, pad=0.01)
    bar.set_ticks([0, 4, 8, 12], labels=["1", "$10^4$", "$10^8$", "$10^{12}$"])
    bar.set_label("largest outputs (root mean square)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    marks = [
        Rectangle(
            (0, 0), 1, 1, path_effects=FRAME_EFFECTS, label="as the healthy network", **FRAME
        ),
        Patch(label="not run", **NOT_RUN),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=7.5,
                  handleheight=1.2)  # fmt: skip
    return figure


def _box(
    axis: Axes,
    position: tuple[int, int],
    rows: pd.DataFrame,
    healthy: pd.DataFrame,
    scale: ScalarMappable,
) -> None:
    """Draw one cause with one remedy."""
    x, y = position
    corner = (x - 0.5, y - 0.5)
    if rows.empty:
        return
    mean, accuracy = rows["log_size"].mean(), rows["accuracy"].mean()
    color = scale.to_rgba(np.array([mean]))[0]
    axis.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="white", linewidth=1))
    if len(healthy) and is_healthy(rows, healthy):
        inner = (corner[0] + 0.035, corner[1] + 0.07)
        frame = Rectangle(inner, 0.93, 0.86, path_effects=FRAME_EFFECTS, **FRAME)
        axis.add_patch(frame)
    axis.text(
        x, y, f"{size_text(rows['log_size'])}\n{accuracy:.0%}", ha="center", va="center",
        fontsize=7, color=text_color(color), linespacing=1.0,
    )  # fmt: skip


def text_color(background: np.ndarray) -> str:
    """Return the color of text, black or white, with the larger contrast on an RGB color.

    >>> text_color(np.array([1.0, 1.0, 0.0])), text_color(np.array([0.0, 0.0, 0.5]))
    ('black', 'white')
    """
    rgb = background[:3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    # Contrast is (lighter + 0.05) / (darker + 0.05).
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def is_healthy(rows: pd.DataFrame, healthy: pd.DataFrame) -> bool:
    """Return True if sizes are healthy within a factor of 3, and accuracies within 0.1."""
    small = rows["log_size"].max() <= healthy["log_size"].max() + np.log10(HEALTHY_FACTOR)
    return bool(small and rows["accuracy"].min() >= healthy["accuracy"].mean() - ACCURACY_MARGIN)


def size_text(log_sizes: pd.Series) -> str:
    """Format the geometric mean of sizes; if some networks diverged, their number.

    >>> size_text(pd.Series([0.0, 2.0])), size_text(pd.Series([0.0, 38.5]))
    ('10', 'inf in 1')
    """
    n_diverged = int((log_sizes >= LARGEST).sum())
    if n_diverged:
        return "inf" if n_diverged == len(log_sizes) else f"inf in {n_diverged}"
    value = 10 ** float(log_sizes.mean())
    if value >= 1000:
        return f"$10^{{{np.log10(value):.0f}}}$"
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _start(cells: pd.DataFrame, draws: pd.DataFrame) -> Figure:
    alone = rows_where(cells, {"remedy": NOTHING})
    causes = [c for c in (HEALTHY, *CAUSES, *OTHER_SUSPECTS) if c in set(alone["cause"])]
    right = float(np.ceil(alone["log_start"].max())) + 1.5
    figure = Figure(figsize=START_SIZE, layout="constrained")
    axis = figure.subplots()
    for y, name in enumerate(causes):
        rows, measured = select(alone, cause=name), select(draws, cause=name)["log_size"]
        axis.plot([measured.min(), measured.max()], [y, y], color=PALETTE[0], linewidth=3)
        axis.plot(measured.mean(), y, marker="|", color="black", markersize=9)
        axis.plot(rows["log_start_predicted"].mean(), y - 0.3, marker="D", color="black", ms=3.5)
        trained = rows["log_size"]
        if (trained >= LARGEST).any():
            axis.annotate(
                "", (right, y + 0.28), (right - 0.8, y + 0.28),
                arrowprops={"arrowstyle": "->", "color": PALETTE[1], "linewidth": 1.5},
            )  # fmt: skip
        else:
            axis.plot(trained.mean(), y + 0.28, marker="o", color=PALETTE[1], ms=4.5, mec="black")
    axis.set_yticks(range(len(causes)), causes)
    axis.set_ylim(len(causes) - 0.4, -0.7)
    axis.set_xlim(None, right)
    first = 2 * int(np.floor(axis.get_xlim()[0] / 2)) + 2
    ticks = range(first, int(right) + 1, 2)
    axis.set_xticks(list(ticks), [f"$10^{{{tick}}}$" for tick in ticks])
    axis.grid(axis="x", color="0.9", linewidth=0.6)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("outputs: root mean square of the logits")
    sns.despine(ax=axis, left=True)
    circle = {"marker": "o", "color": PALETTE[1], "mec": "black", "ms": 4.5, "linestyle": ""}
    handles = [
        Line2D([], [], color="black", marker="D", ms=3.5, linestyle="", label="predicted"),
        Line2D([], [], color=PALETTE[0], linewidth=3, label="measured before training"),
        Line2D([], [], label="largest in training", **circle),
        Line2D([], [], color=PALETTE[1], marker=">", linestyle="-", label="it diverged"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=7)
    return figure
