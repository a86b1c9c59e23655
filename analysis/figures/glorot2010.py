"""Study `glorot2010`: activations and back-propagated gradients by layer (Figs 6 and 7)."""

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
    "Under the standard init U(-1/sqrt(n), 1/sqrt(n)), the activations of a tanh network shrink "
    "from layer to layer, and so do its back-propagated gradients. Under the normalized init, "
    "neither does."
)
SIZE = (6.6, 4.6)  # inches
INITS = {"lecun_uniform": "standard", "xavier_uniform": "normalized"}
# Quantity in the `layers` table: quantity in the `histograms` table, label.
SIGNALS = {"act_m2": ("act", "activation"), "grad_m2": ("grad", "back-propagated gradient")}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1)), "--", "-.", ":")


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Test whether activations and gradients keep their standard deviation from layer to layer.

    Parameters
    ----------
    results
        Results of the sweep `glorot2010`.
    criterion
        Bounds on the ratio of two standard deviations: that of the layer that the signal reaches
        last, divided by that of the layer that it reaches first. `uneven`: upper bound for the
        standard init. `even`: lower bound for the normalized init.
    """
    if results.layers.empty or results.histograms.empty:
        raise FaninError(f"{results.folder.root}: no layer has been measured yet; run the sweep")
    deviations = _deviations(results)
    draws = deviations.groupby("init")["draw"].nunique().min()
    width = int(results.cells["model.width"].max())
    caption = (
        f"Tanh network with 5 hidden layers of {width} units at initialization, digits of 28 x 28 "
        "pixels. Histograms of activations (top) and of gradients of the loss with respect to the "
        "pre-activations (bottom), one network each. Left: standard init, right: normalized init. "
        f"The table has geometric means over {draws} draws of the weights, with 95 % intervals."
    )
    return Study(
        CLAIM,
        {"glorot2010": _figure(results)},
        caption,
        tuple(_claim_results(deviations, criterion)),
    )


def _deviations(results: Results) -> pd.DataFrame:
    """Return the standard deviation over units and images for each draw and hidden layer."""
    configs = results.cells[["cell_id", "init", "model.depth"]]
    layers = results.layers[results.layers["quantity"].isin(list(SIGNALS))]
    layers = layers[(layers["image"] == -1)].merge(configs)
    hidden = layers[(layers["layer"] > 0) & (layers["layer"] < layers["model.depth"])]
    return pd.DataFrame(
        {
            "init": hidden["init"].astype(str),
            "draw": hidden["cell_id"].astype(str) + "/" + hidden["draw"].astype(str),
            "quantity": hidden["quantity"].astype(str),
            "layer": hidden["layer"].astype(int),
            "sd": np.sqrt(hidden["value"]),
        }
    )


def sd_ratio(deviations: pd.DataFrame, init: str, quantity: str) -> Interval:
    """Return the ratio of two standard deviations: last layer over first.

    For gradients, which run backward, the last layer is layer 1. The value is the geometric mean
    over draws, with its 95 % interval.
    """
    rows = deviations[(deviations["init"] == init) & (deviations["quantity"] == quantity)]
    by_layer = rows.pivot_table(index="draw", columns="layer", values="sd")
    first, last = by_layer.iloc[:, 0], by_layer.iloc[:, -1]
    ratio = last / first if quantity == "act_m2" else first / last
    log_ratio = mean_interval(np.log(ratio))
    return Interval(*(float(np.exp(x)) for x in (log_ratio.value, log_ratio.low, log_ratio.high)))


def _claim_results(deviations: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    for quantity, (_, label) in SIGNALS.items():
        layers = "layer 5 / layer 1" if quantity == "act_m2" else "layer 1 / layer 5"
        for init, name in INITS.items():
            ratio = sd_ratio(deviations, init, quantity)
            uneven = name == "standard"
            bound = criterion["uneven"] if uneven else criterion["even"]
            yield ClaimResult(
                f"{name} init: standard deviation of the {label}, {layers}",
                f"{'shrinks' if uneven else 'about the same'} (paper's figure); "
                f"{'below' if uneven else 'above'} {bound:g}",
                f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})",
                ratio.high < bound if uneven else ratio.low > bound,
                threshold=f"interval {'below' if uneven else 'above'} {bound:g}",
                cells={"init": init},
            )


def _figure(results: Results) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(2, 2, sharex="row", sharey="row")
    for column, (init, name) in enumerate(INITS.items()):
        cells = results.cells[results.cells["init"] == init]
        cell = cells.sort_values("seed_weights")["cell_id"].iloc[0]
        bins = results.histograms
        bins = bins[(bins["cell_id"] == cell) & (bins["draw"] == 0)]
        for row, (quantity, label) in enumerate(SIGNALS.values()):
            axis: Axes = axes[row, column]
            hidden_layers = int(cells["model.depth"].iloc[0]) - 1
            _densities(axis, bins[bins["quantity"] == quantity], hidden_layers)
            axis.set_xlabel(_axis_label(label), fontsize="small")
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
        rows = bins[bins["layer"] == layer]
        width = rows["right"] - rows["left"]
        density = rows["count"] / (rows["count"].sum() * width)
        style = {"color": PALETTE[layer - 1], "linestyle": DASHES[layer - 1], "linewidth": 1.1}
        axis.plot((rows["left"] + rows["right"]) / 2, density, **style)
    axis.set_yscale("log")
    sns.despine(ax=axis)


def _limits(row: Any) -> None:
    """Show four decades below the highest density of a row of panels."""
    top = max(line.get_ydata().max() for axis in row for line in axis.get_lines())
    row[0].set_ylim(top / 1e4, top * 2)


def _axis_label(label: str) -> str:
    symbol = r"$\phi(y_l)$" if label == "activation" else r"$\partial \mathcal{L} / \partial y_l$"
    return f"{label} {symbol}"
