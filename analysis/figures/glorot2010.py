"""Study `glorot2010`: standard against normalized init of a tanh network (Table 1, Figs 6, 7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from analysis.figures.style import PALETTE
from analysis.figures.training_runs import best_rates
from analysis.load import Results
from analysis.scoring.effects import per_seed, tuned
from analysis.scoring.scored_study import ScoredStudy, Tables
from analysis.scoring.summary import CELLS
from fanin.errors import FaninError

SIZE = (7.2, 3.8)  # inches
STANDARD, NORMALIZED = "lecun_uniform", "xavier_uniform"
INITS = {STANDARD: "standard", NORMALIZED: "normalized"}
# Quantity in the `layers` table: quantity in the `histograms` table, label.
SIGNALS = {"act_m2": ("act", "activation"), "grad_m2": ("grad", "back-propagated gradient")}
INIT_STYLES: dict[str, dict[str, Any]] = {
    STANDARD: {"color": PALETTE[0], "marker": "o", "linestyle": "-"},
    NORMALIZED: {"color": PALETTE[3], "marker": "s", "linestyle": "--"},
}
# Of the first, the middle and the last hidden layer; from dark to light, also in grayscale.
LAYER_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "black", "linestyle": "-"},
    {"color": PALETTE[2], "linestyle": (0, (5, 1.5))},
    {"color": PALETTE[1], "linestyle": (0, (1, 1))},
)
CHANCE = 0.9  # test error at chance, of ten classes


def _error_difference(cells: pd.DataFrame) -> pd.Series:
    errors = tuned(cells, ["init"], "lr", "error")
    return errors[STANDARD] - errors[NORMALIZED]


def _evenness(cells: pd.DataFrame, name: str) -> float:
    by_init = cells.groupby("init")[name].mean()
    return float(by_init[NORMALIZED] - by_init[STANDARD])


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return errors and changes over the layers of each network, and histograms of seed 0."""
    if results.layers.empty or results.histograms.empty or results.curves.empty:
        raise FaninError(f"{results.folder.root}: no network has been trained yet; run the sweep")
    cells = results.cells
    table = pd.DataFrame(
        {
            "cell_id": cells["cell_id"].astype(str),
            "seed": cells["seed"].astype(int),
            "init": cells["init"].astype(str),
            "lr": cells["optim.lr"].astype(float),
            "error": (1 - cells["test_accuracy"]).fillna(CHANCE),
        }
    )
    table = table.merge(_changes(results), on="cell_id")
    first = table.sort_values(["seed", "lr"]).groupby("init")["cell_id"].first()
    bins = results.histograms.assign(cell_id=results.histograms["cell_id"].astype(str))
    bins = bins[bins["cell_id"].isin(first) & (bins["draw"] == 0) & (bins["step"] == 0)]
    bins = bins.merge(table[["cell_id", "init"]], on="cell_id")
    bins = bins[(bins["layer"] > 0) & (bins["layer"] < bins["layer"].max())]
    kept = ["init", "quantity", "layer", "left", "right", "count"]
    bins = bins[bins["quantity"].isin([name for name, _ in SIGNALS.values()])][kept]
    about = ["model.width", "model.depth", "data.n_train", "data.n_test", "train.steps"]
    return {
        CELLS: table.drop(columns="cell_id"),
        "histograms": bins.astype({"quantity": str}).reset_index(drop=True),
        "setting": cells[about].iloc[:1].astype(float).reset_index(drop=True),
    }


def _changes(results: Results) -> pd.DataFrame:
    """Return log2 of the ratio of standard deviations, last layer that a signal reaches to first.

    Columns `act_change` and `grad_change`, by cell, at initialization. Gradients run backward.
    """
    layers = results.layers
    rows = layers[(layers["image"] == -1) & (layers["draw"] == 0) & (layers["step"] == 0)]
    columns = {}
    for quantity in SIGNALS:
        signal = rows[rows["quantity"] == quantity].assign(cell_id=rows["cell_id"].astype(str))
        by_layer = signal[signal["layer"] > 0].pivot_table(
            index="cell_id", columns="layer", values="value"
        )
        hidden = np.log2(by_layer.iloc[:, :-1]) / 2  # of standard deviations
        forward = hidden.iloc[:, -1] - hidden.iloc[:, 0]
        columns[quantity.replace("_m2", "_change")] = forward if quantity == "act_m2" else -forward
    return pd.DataFrame(columns).rename_axis("cell_id").reset_index()


def caption(tables: Tables) -> str:
    """Write the caption."""
    cells, setting = tables[CELLS], tables["setting"].iloc[0]
    rates = ", ".join(f"{rate:g}" for rate in sorted(cells["lr"].unique()))
    return (
        f"Tanh network with {setting['model.depth'] - 1:.0f} hidden layers of "
        f"{setting['model.width']:.0f} units on {setting['data.n_train']:,.0f} images of MNIST, "
        f"{setting['train.steps']:,.0f} steps of SGD. Left: error on {setting['data.n_test']:,.0f} "
        f"test images by learning rate ({rates}): mean over n = {cells['seed'].nunique()} seeds; "
        "bars: standard error. Others: densities of the activations and of the gradients of the "
        "loss with respect to the pre-activations at initialization, one network per init (top: "
        f"standard, bottom: normalized), in {_listed(_shown_layers(tables['histograms']))}."
    )


def _shown_layers(bins: pd.DataFrame) -> list[int]:
    """Return the first, the middle and the last hidden layer."""
    layers = sorted(bins["layer"].astype(int).unique())
    return sorted({layers[0], layers[len(layers) // 2], layers[-1]})


def _listed(layers: list[int]) -> str:
    """Join layer numbers.

    >>> _listed([1]), _listed([1, 3, 5])
    ('layer 1', 'layers 1, 3 and 5')
    """
    *others, last = layers
    return f"layers {', '.join(map(str, others))} and {last}" if others else f"layer {last}"


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the test error by learning rate, and the densities by init and layer."""
    cells, bins = tables[CELLS], tables["histograms"]
    figure = Figure(figsize=SIZE, layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=[1.15, 1, 1])
    _draw_errors(figure.add_subplot(grid[:, 0]), cells)
    for column, (quantity, label) in enumerate(SIGNALS.values(), start=1):
        bottom = figure.add_subplot(grid[1, column])
        top = figure.add_subplot(grid[0, column], sharex=bottom, sharey=bottom)
        for axis, (init, name) in zip((top, bottom), INITS.items(), strict=True):
            _draw_densities(axis, bins[(bins["quantity"] == quantity) & (bins["init"] == init)])
            axis.set_yscale("log")
            axis.minorticks_off()
            axis.set_title(f"{name} init", fontsize="small")
            axis.set_ylabel("density")
        top.tick_params(labelbottom=False)
        bottom.set_xlabel(label)
    lines = figure.axes[-1].get_legend_handles_labels()
    figure.legend(*lines, loc="outside upper right", ncols=3, frameon=False, fontsize="small")
    for axis in figure.axes:
        sns.despine(ax=axis)
    return {"glorot2010": figure}


def _draw_errors(axis: Axes, cells: pd.DataFrame) -> None:
    """Draw the test error of each init by learning rate."""
    for init, name in INITS.items():
        groups = cells[cells["init"] == init].groupby("lr")["error"]
        axis.errorbar(groups.mean().index, 100 * groups.mean(), yerr=100 * groups.sem(),
                      markersize=3.5, label=name, **INIT_STYLES[init])  # fmt: skip
    best = best_rates(cells.rename(columns={"error": "loss"}), ["init"])
    axis.set_title(
        "best rate: " + ", ".join(f"{INITS[r.init]} {r.lr:g}" for r in best.itertuples()),
        fontsize="x-small",
    )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(rates := sorted(cells["lr"].unique()), [f"{rate:g}" for rate in rates])
    axis.minorticks_off()
    axis.yaxis.set_major_locator(MaxNLocator(6))
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.set_xlabel("learning rate")
    axis.set_ylabel("test error (%)")
    axis.legend(frameon=False, fontsize="small")


def _draw_densities(axis: Axes, bins: pd.DataFrame) -> None:
    """Draw the density of one signal in three layers."""
    for style, layer in zip(LAYER_STYLES, _shown_layers(bins), strict=False):
        rows = bins[bins["layer"] == layer]
        finite = rows[np.isfinite(rows["left"]) & (rows["right"] > rows["left"])]
        width = finite["right"] - finite["left"]
        density = finite["count"] / (finite["count"].sum() * width)
        axis.plot((finite["left"] + finite["right"]) / 2, density, linewidth=1.3,
                  label=f"layer {layer}", **style)  # fmt: skip


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("error", "act_change", "grad_change"),
    effects={
        "error_difference": _error_difference,
        "activation_evenness": per_seed(lambda cells: _evenness(cells, "act_change")),
        "gradient_evenness": per_seed(lambda cells: _evenness(cells, "grad_change")),
    },
    figures=figures,
    caption=caption,
)
