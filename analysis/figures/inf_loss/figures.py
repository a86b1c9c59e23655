"""Figures of the study `inf_loss`: the map of settings, the first layer, and the regression."""

from __future__ import annotations

from itertools import groupby, product
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from analysis.figures.inf_loss.cells import ONSET, SETTINGS
from analysis.figures.style import PALETTE
from analysis.scoring.effects import rows_where
from analysis.scoring.scored_study import Tables
from analysis.scoring.summary import CELLS

MAP_SIZE, LAYER_SIZE, REGRESSION_SIZE = (7.4, 3.9), (4.2, 4.0), (6.4, 2.4)  # inches
STABLE = 2.0  # gradient descent on a quadratic loss is stable below 2 / lambda_0
CERTAIN = 8.0  # in units of 1 / lambda_0, as we claim
SHADES = {"first loss": "0.15", "a later loss": "0.68", "no loss": "1.0"}
INITS = ("N(0, 1)", "U(0, 1)", "He", "Xavier", "PyTorch default", "U(-0.01, 0.01)")
INPUTS = ("standardized", "−1 to 1", "0 to 1", "0 to 255", "0 to 1e6")
NONE = 1e6  # "first overflowing layer" of a network in which no layer overflows
REGRESSIONS = {
    ("standardized", "relu"): "standardized, ReLU",
    ("standardized", "tanh"): "standardized, tanh",
    ("raw", "relu"): "raw features, ReLU",
    ("raw", "tanh"): "raw features, tanh",
}


def caption(tables: Tables) -> str:
    """Write the captions of the three figures."""
    cells = tables[CELLS]
    n = cells["seed"].nunique()
    pairs = _first_layers(rows_where(cells, {"part": SETTINGS}))
    distance = (pairs["measured"] - pairs["predicted"]).abs()
    return (
        "When the loss becomes inf or NaN, by activation and init (rows) and dtype, input range "
        "and number of layers (columns). Number in a box: of n = "
        f"{n} seeds, those with a bad loss, if not all have the same outcome.\n\n"
        "First layer whose pre-activations overflow before training, measured against predicted "
        f"(n = {len(pairs):,} networks; equal in {(distance == 0).sum():,}, one layer apart in "
        f"{(distance == 1).sum():,}). Number in a box: networks. Grey: the same layer; framed: "
        "another. Only layers that occur are shown. Networks whose input overflows are left "
        "out.\n\n"
        "A regression by full-batch gradient descent: learning rate times lambda_0, the largest "
        f"Hessian eigenvalue at initialization, of each network (n = {n} seeds, a line of points "
        "per seed). Cross: the loss becomes inf or NaN; circle: it stays finite. Solid line: 2, "
        "the limit for a quadratic loss; dashed line: 8."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the figures of the page and of the appendix."""
    cells = tables[CELLS]
    settings = rows_where(cells, {"part": SETTINGS})
    return {
        "inf_loss": _map_figure(settings),
        "inf_loss_first_layer": _layer_figure(settings),
        "inf_loss_regression": _regression_figure(rows_where(cells, {"part": ONSET})),
    }


def outcome(rows: pd.DataFrame) -> str:
    """Return the most frequent outcome of some networks: a key of `SHADES`."""
    first, bad = rows["bad_first"].mean(), rows["bad"].mean()
    if first >= 0.5:
        return "first loss"
    return "a later loss" if bad >= 0.5 else "no loss"


def _map_figure(settings: pd.DataFrame) -> Figure:
    """Draw a box per setting."""
    figure = Figure(figsize=MAP_SIZE, layout="constrained")
    axis = figure.subplots()
    row_keys = [
        key for key in product(("relu", "tanh"), INITS)
        if len(rows_where(settings, {"activation": key[0], "init": key[1]}))
    ]  # fmt: skip
    depths = sorted(settings["depth"].unique())
    names = [name for name in INPUTS if name in set(settings["inputs"])]
    dtypes = [name for name in ("float32", "float16") if name in set(settings["dtype"])]
    columns = list(product(dtypes, names, depths))
    groups = settings.groupby(["activation", "init", "dtype", "inputs", "depth"])
    for (activation, init, dtype, inputs, depth), rows in groups:
        x, y = columns.index((dtype, inputs, depth)), row_keys.index((activation, init))
        kind = outcome(rows)
        axis.add_patch(Rectangle((x, y), 1, 1, facecolor=SHADES[kind], edgecolor="0.8", lw=0.4))
        if 0 < rows["bad"].mean() < 1:
            color = "white" if kind == "first loss" else "black"
            axis.text(x + 0.5, y + 0.52, f"{rows['bad'].sum():.0f}", ha="center", va="center",
                      fontsize=6.5, color=color)  # fmt: skip
    _labels(axis, row_keys, columns)
    handles = [Patch(facecolor=s, edgecolor="0.5", label=name) for name, s in SHADES.items()]
    figure.legend(handles=handles, title="inf or NaN", loc="outside lower center", ncols=3,
                  frameon=False, fontsize="small", title_fontsize="small")  # fmt: skip
    return figure


def _labels(axis: Axes, rows: list[tuple[str, str]], columns: list[tuple[str, str, int]]) -> None:
    axis.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    names = [f"{'ReLU' if act == 'relu' else act}, {init}" for act, init in rows]
    axis.set_yticks([n + 0.5 for n in range(len(rows))], names, fontsize=7)
    depths = [str(depth) for _, _, depth in columns]
    axis.set_xticks([n + 0.5 for n in range(len(columns))], depths, fontsize=7)
    axis.set_xlabel("number of layers", fontsize="small")
    axis.tick_params(length=0)
    for y in range(1, len(rows)):
        if rows[y][0] != rows[y - 1][0]:
            axis.axhline(y, color="black", linewidth=1.2)
    x = 0
    for (dtype, inputs), run in groupby(columns, key=lambda column: column[:2]):
        size = len(list(run))
        axis.text(x + size / 2, -0.15, inputs.replace(" to ", "\nto "), ha="center", va="bottom",
                  fontsize=5.8)  # fmt: skip
        starts_dtype = x == 0 or columns[x - 1][0] != dtype
        axis.axvline(x, color="black", linewidth=1.2 if starts_dtype else 0.6)
        if starts_dtype:
            axis.text(x + 0.1, -1.55, f"{dtype}, pixels:", va="bottom", fontsize=7, weight="bold")
        x += size


def _first_layers(settings: pd.DataFrame) -> pd.DataFrame:
    """Return the predicted and measured first layers of networks whose input does not overflow.

    A network without overflow has `NONE`.
    """
    rows = settings[settings["layer_predicted"].fillna(1.0) > 0]
    layers = rows.reindex(columns=["layer_predicted", "first_layer"]).fillna(NONE)
    return layers.set_axis(["predicted", "measured"], axis=1)


def _layer_figure(settings: pd.DataFrame) -> Figure:
    """Write the number of networks by predicted and measured first overflowing layer."""
    figure = Figure(figsize=LAYER_SIZE, layout="constrained")
    axis = figure.subplots()
    pairs = _first_layers(settings)
    layers = np.unique(pairs.to_numpy(float))
    for (predicted, measured), rows in pairs.groupby(["predicted", "measured"]):
        x, y = np.searchsorted(layers, [predicted, measured])
        if x != y:
            axis.add_patch(
                Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="black", zorder=3)
            )
        text = f"{len(rows):,}"
        size = 6.5 if len(text) < 5 else 5
        axis.text(x, y, text, ha="center", va="center", fontsize=size)
    for n in range(len(layers)):
        axis.add_patch(Rectangle((n - 0.5, n - 0.5), 1, 1, facecolor="0.85"))
    names = ["none" if layer == NONE else f"{layer:.0f}" for layer in layers]
    edges = (-0.5, len(layers) - 0.5)
    axis.set(xlim=edges, ylim=edges, aspect="equal")
    axis.set_xticks(range(len(layers)), names, fontsize=6.5)
    axis.set_yticks(range(len(layers)), names, fontsize=6.5)
    axis.set_xticks(np.arange(0.5, len(layers) - 1), minor=True)
    axis.set_yticks(np.arange(0.5, len(layers) - 1), minor=True)
    axis.grid(which="minor", color="0.92", linewidth=0.5)
    axis.tick_params(which="both", length=0)
    axis.spines[:].set(color="0.7", linewidth=0.6)
    axis.set_xlabel("predicted first overflowing layer", fontsize="small")
    axis.set_ylabel("measured first overflowing layer", fontsize="small")
    return figure


def _regression_figure(cells: pd.DataFrame) -> Figure:
    """Plot each network at its rate, by input and activation, and within a row by seed."""
    figure = Figure(figsize=REGRESSION_SIZE, layout="constrained")
    axis = figure.subplots()
    seeds = sorted(cells["seed"].unique())
    offsets = dict(zip(seeds, np.linspace(-0.32, 0.32, len(seeds)), strict=True))
    styles: dict[int, dict[str, Any]] = {
        0: {"marker": "o", "facecolors": "none", "edgecolors": PALETTE[0]},
        1: {"marker": "x", "color": PALETTE[3]},
    }
    for y, (inputs, activation) in enumerate(REGRESSIONS):
        rows = rows_where(cells, {"inputs": inputs, "activation": activation})
        for bad, style in styles.items():
            points = rows[rows["bad"] == bad]
            height = y + points["seed"].map(offsets)
            axis.scatter(points["lr_times_curvature"], height, s=11, linewidth=0.7, **style)
    axis.axvline(STABLE, color="black", linewidth=0.8)
    axis.axvline(CERTAIN, color="black", linewidth=0.8, linestyle="--")
    axis.set_xscale("log")
    axis.set_yticks(range(len(REGRESSIONS)), list(REGRESSIONS.values()))
    axis.set_ylim(len(REGRESSIONS) - 0.5, -0.5)
    axis.set_xlabel(r"learning rate $\times\ \lambda_0$")
    axis.tick_params(axis="y", length=0)
    sns.despine(ax=axis, left=True)
    return figure
