"""The two figures of `large_outputs`: the map of suspects and remedies, and before training."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analysis.figures.style import PALETTE

MAP = (9.4, 5.6)  # inches
BEFORE = (6.8, 3.6)
COLOURS = "cividis"  # its lightness grows evenly, so it is read in grey too
LEAST, MOST = 0.1, 1e12  # of the colour scale, a root mean square
WITHIN = 1.96  # standard deviations: 95 % of draws


def size(value: float) -> str:
    """A root mean square, short.

    >>> [size(v) for v in (0.0312, 5.04, 74.2, 118.0, 43000.0, 2e17)]
    ['0.031', '5', '74', '118', '4e4', '2e17']
    """
    if not np.isfinite(value):
        return "-"
    if value < 999.5:
        return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"
    digit, power = f"{value:.0e}".split("e")
    return f"{digit}e{int(power)}"


def heat_map(table: pd.DataFrame) -> Figure:
    """Draw `outcomes`: rows suspects, columns remedies, the size of the outputs as colour."""
    figure = Figure(figsize=MAP, layout="constrained")
    axis = figure.subplots()
    suspects, remedies = (list(table[key].unique()) for key in ("suspect", "remedy"))
    scale = ScalarMappable(LogNorm(LEAST, MOST), COLOURS)
    for row in table.to_dict("records"):
        place = remedies.index(row["remedy"]), suspects.index(row["suspect"])
        _draw_field(axis, row, place, scale)
    axis.set_xlim(-0.5, len(remedies) - 0.5)
    axis.set_ylim(len(suspects) - 0.5, -0.5)
    axis.set_xticks(range(len(remedies)), [fill(name, 12) for name in remedies])
    axis.set_yticks(range(len(suspects)), [s.replace(": ", ":\n", 1) for s in suspects])
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=7.5)
    axis.set_xlabel("remedy")
    axis.set_ylabel("suspect, switched on alone")
    sns.despine(ax=axis, left=True, bottom=True)
    bar = figure.colorbar(scale, ax=axis, extend="both", fraction=0.03, pad=0.01)
    bar.set_label("largest outputs: root mean square of the logits (dimensionless)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    handles = [
        Patch(facecolor="white", edgecolor="black", linewidth=2, label="✓ healthy in every seed"),
        Patch(facecolor="white", edgecolor="0.4", hatch="////", label="remedy undoes the suspect"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _draw_field(
    axis: Axes, row: Mapping[str, Any], place: tuple[int, int], scale: ScalarMappable
) -> None:
    column, line = place
    corner = (column - 0.5, line - 0.5)
    if row["kind"] in ("in place", "none"):
        words = "in place\nalready" if row["kind"] == "in place" else "no\nmeaning"
        axis.text(column, line, words, ha="center", va="center", fontsize=6, color="0.5")
        return
    colour = scale.to_rgba(np.array([row["largest"]]))[0]
    axis.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", linewidth=1))
    if row["kind"] == "undone":
        faint = (1.0, 1.0, 1.0, 0.35)
        axis.add_patch(
            Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor=faint, linewidth=0)
        )
    if row["healthy"]:
        inner = (corner[0] + 0.04, corner[1] + 0.05)
        axis.add_patch(Rectangle(inner, 0.92, 0.9, fill=False, edgecolor="black", linewidth=2))
    lightness = colour[:3] @ np.array([0.2126, 0.7152, 0.0722])
    ink = "black" if lightness > 0.4 else "white"
    axis.text(column, line, words_of(row), ha="center", va="center", fontsize=7, color=ink)


def words_of(row: Mapping[str, Any]) -> str:
    """What a field says: the size of the outputs, and how it ended."""
    least = "≥" if row["diverged"] else ""  # it was past the last probe that it diverged
    hidden = f" ({size(row['handed_out'])})" if row["headed"] else ""
    good = " ✓" if row["healthy"] else ""
    return f"{least}{size(row['largest'])}{hidden}\n{how_it_ended(row)}{good}"


def how_it_ended(row: Mapping[str, Any]) -> str:
    """How many seeds diverged, and what the worst of the others makes right."""
    told = [f"{row['diverged']}/{row['seeds']} div."] if row["diverged"] else []
    if not np.isnan(row["accuracy"]):
        told.append(f"{row['accuracy']:.0%}")
    if not np.isnan(row["explained"]):
        told.append(f"R² {row['explained']:.2f}")
    return ", ".join(told)


def before_training(first: pd.DataFrame, alone: pd.DataFrame) -> Figure:
    """Draw predicted and measured sizes before training, and where training took them."""
    figure = Figure(figsize=BEFORE, layout="constrained")
    axis = figure.subplots()
    ended = alone.set_index("suspect")
    for line, row in enumerate(first.to_dict("records")):
        centre, spread = row["log_predicted"] / 2, WITHIN * row["log_sd"] / 2
        ends = np.exp([centre - spread, centre + spread])
        axis.plot(ends, [line - 0.2] * 2, color="black", linewidth=1.0, zorder=2)
        axis.plot(np.exp(centre), line - 0.2, marker="D", color="black", markersize=4, zorder=3)
        axis.scatter(
            row["values"] ** 0.5, [line + 0.05] * row["draws"], s=12, marker="|", linewidth=0.8,
            color=PALETTE[0], zorder=3,
        )  # fmt: skip
        fate = ended.loc[row["suspect"]]
        mark = "X" if fate["diverged"] else "o"
        axis.plot(
            fate["largest"], line + 0.28, marker=mark, markersize=5, color=PALETTE[1],
            markeredgecolor="black", markeredgewidth=0.5,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yticks(range(len(first)), list(first["suspect"]))
    axis.set_ylim(len(first) - 0.5, -0.6)
    axis.grid(axis="x", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("outputs: root mean square of the logits (dimensionless)")
    sns.despine(ax=axis, left=True)
    figure.legend(handles=_legend(), loc="outside upper center", ncols=4, frameon=False, fontsize=7)
    return figure


def _legend() -> list[Line2D]:
    training = {"color": PALETTE[1], "markeredgecolor": "black", "linestyle": ""}
    return [
        Line2D([], [], color="black", marker="D", markersize=4, linewidth=1.0,
               label="predicted: typical draw, 95 %"),
        Line2D([], [], color=PALETTE[0], marker="|", linestyle="", label="measured draws"),
        Line2D([], [], marker="o", markersize=5, label="largest in training", **training),
        Line2D([], [], marker="X", markersize=5, label="largest before it diverged", **training),
    ]  # fmt: skip
