"""Activations and back-propagated gradients by layer (Glorot and Bengio 2010, Figs 6 and 7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.study import ClaimResult, Study
from analysis.figures.style import PALETTE
from analysis.load import Results
from fanin.errors import FaninError
from fanin.statistics.interval import Interval, mean_interval

CLAIM = (
    "Under the standard init U(-1/sqrt(n), 1/sqrt(n)) a tanh network's activations shrink from "
    "layer to layer, and its gradients on their way back; under the normalized init neither does."
)
SIZE = (6.6, 4.6)  # inches
INITS = {"lecun_uniform": "standard", "xavier_uniform": "normalized"}
# Quantities of the `layers` and the `histograms` table.
SIGNALS = {"act_m2": ("act", "activation"), "grad_m2": ("grad", "back-propagated gradient")}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1)), "--", "-.", ":")


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Hold each init's evenness against the claim.

    Parameters
    ----------
    results
        Of the sweep `glorot2010`.
    criterion
        `uneven` and `even`: the ratio of standard deviations, last layer over first in the
        direction of the signal, that the standard init stays below and the normalized above.
    """
    if results.layers.empty or results.histograms.empty:
        raise FaninError(f"{results.folder.root}: no layer was measured yet")
    deviations = _deviations(results)
    draws = deviations.groupby("init")["draw"].nunique().min()
    width = int(results.cells["model.width"].max())
    caption = (
        f"Tanh network with 5 hidden layers of {width} at initialization, digits of 28 x 28 "
        "pixels. Histograms of activations (top) and of the loss's gradient with respect to the "
        "pre-activations (bottom), one network each; left: standard init, right: normalized. "
        f"Ratios of standard deviations: {draws} draws of the weights."
    )
    return Study(
        CLAIM,
        {"glorot2010": _figure(results)},
        caption,
        tuple(_claim_results(deviations, criterion)),
    )


def _deviations(results: Results) -> pd.DataFrame:
    """`init`, `draw`, `quantity`, `layer`, `sd`: over the units and images of one network."""
    about = results.cells[["cell_id", "init", "model.depth"]]
    layers = results.layers[results.layers["quantity"].isin(list(SIGNALS))]
    mine = layers[(layers["image"] == -1)].merge(about)
    hidden = mine[(mine["layer"] > 0) & (mine["layer"] < mine["model.depth"])]
    return pd.DataFrame(
        {
            "init": hidden["init"].astype(str),
            "draw": hidden["cell_id"].astype(str) + "/" + hidden["draw"].astype(str),
            "quantity": hidden["quantity"].astype(str),
            "layer": hidden["layer"].astype(int),
            "sd": np.sqrt(hidden["value"]),
        }
    )


def evenness(deviations: pd.DataFrame, init: str, quantity: str) -> Interval:
    """Share of its standard deviation that a signal keeps from its first layer to its last.

    Geometric mean over draws, with its 95 % interval.
    """
    mine = deviations[(deviations["init"] == init) & (deviations["quantity"] == quantity)]
    by_layer = mine.pivot_table(index="draw", columns="layer", values="sd")
    first, last = by_layer.iloc[:, 0], by_layer.iloc[:, -1]
    kept = last / first if quantity == "act_m2" else first / last
    found = mean_interval(np.log(kept))
    return Interval(*(float(np.exp(x)) for x in (found.value, found.low, found.high)))


def _claim_results(deviations: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    for quantity, (_, words) in SIGNALS.items():
        way = "layer 5 over layer 1" if quantity == "act_m2" else "layer 1 over layer 5"
        for init, name in INITS.items():
            kept = evenness(deviations, init, quantity)
            uneven = name == "standard"
            bound = criterion["uneven"] if uneven else criterion["even"]
            yield ClaimResult(
                f"{name} init: sd of the {words}, {way}",
                f"{'shrinks' if uneven else 'about the same'} (their figure); "
                f"{'below' if uneven else 'above'} {bound:g}",
                f"{kept.value:.3f} ({kept.low:.3f} to {kept.high:.3f})",
                kept.high < bound if uneven else kept.low > bound,
            )


def _figure(results: Results) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(2, 2, sharex="row", sharey="row")
    for column, (init, name) in enumerate(INITS.items()):
        cells = results.cells[results.cells["init"] == init]
        cell = cells.sort_values("seed_weights")["cell_id"].iloc[0]
        bins = results.histograms
        mine = bins[(bins["cell_id"] == cell) & (bins["draw"] == 0)]
        for row, (kind, words) in enumerate(SIGNALS.values()):
            axis: Axes = axes[row, column]
            _densities(axis, mine[mine["quantity"] == kind], int(cells["model.depth"].iloc[0]) - 1)
            axis.set_xlabel(_symbol(words), fontsize="small")
            axis.xaxis.set_major_locator(MaxNLocator(5))
        axes[0, column].set_title(f"{name} init", fontsize="medium")
    for row in axes:
        row[0].set_ylabel("density", fontsize="small")
        _limits(row)
    handles = [
        Line2D([], [], color=PALETTE[n], linestyle=DASHES[n], label=f"layer {n + 1}")
        for n in range(len(DASHES))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False)
    return figure


def _densities(axis: Axes, bins: pd.DataFrame, layers: int) -> None:
    for layer in range(1, layers + 1):
        mine = bins[bins["layer"] == layer]
        width = mine["right"] - mine["left"]
        density = mine["count"] / (mine["count"].sum() * width)
        style = {"color": PALETTE[layer - 1], "linestyle": DASHES[layer - 1], "linewidth": 1.1}
        axis.plot((mine["left"] + mine["right"]) / 2, density, **style)
    axis.set_yscale("log")
    sns.despine(ax=axis)


def _limits(row: Any) -> None:
    """Four decades below the tallest peak."""
    top = max(line.get_ydata().max() for axis in row for line in axis.get_lines())
    row[0].set_ylim(top / 1e4, top * 2)


def _symbol(words: str) -> str:
    symbol = r"$\phi(y_l)$" if words == "activation" else r"$\partial \mathcal{L} / \partial y_l$"
    return f"{words} {symbol}"
