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

SIZE = (7.2, 2.6)  # inches
STANDARD, NORMALIZED = "lecun_uniform", "xavier_uniform"
INITS = {STANDARD: "standard", NORMALIZED: "normalized"}
# Quantity in the `layers` table: quantity in the `histograms` table, label.
SIGNALS = {"act_m2": ("act", "activation"), "grad_m2": ("grad", "back-propagated gradient")}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1)), "--", "-.", ":")
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
        "loss with respect to the pre-activations at initialization, one network per init; colors "
        "and dashes: layers 1 to 5; thick: normalized init."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the test error by learning rate, and the densities by layer."""
    cells, bins = tables[CELLS], tables["histograms"]
    figure = Figure(figsize=SIZE, layout="constrained")
    left, *others = figure.subplots(1, 3)
    for number, (init, name) in enumerate(INITS.items()):
        groups = cells[cells["init"] == init].groupby("lr")["error"]
        left.errorbar(groups.mean().index, 100 * groups.mean(), yerr=100 * groups.sem(), marker="o",
                      markersize=3.5, color=PALETTE[3 * number], label=name)  # fmt: skip
    best = best_rates(cells.rename(columns={"error": "loss"}), ["init"])
    left.set_title(
        "best rate: " + ", ".join(f"{INITS[r.init]} {r.lr:g}" for r in best.itertuples()),
        fontsize="x-small",
    )
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xticks(rates := sorted(cells["lr"].unique()), [f"{rate:g}" for rate in rates])
    left.minorticks_off()
    left.yaxis.set_major_locator(MaxNLocator(6))
    left.yaxis.set_major_formatter(ScalarFormatter())
    left.set_xlabel("learning rate")
    left.set_ylabel("test error (%)")
    left.legend(frameon=False, fontsize="small")
    for axis, (quantity, label) in zip(others, SIGNALS.values(), strict=True):
        for init, width in ((STANDARD, 0.8), (NORMALIZED, 1.8)):
            _densities(axis, bins[(bins["quantity"] == quantity) & (bins["init"] == init)], width)
        axis.set_yscale("log")
        axis.set_xlabel(label)
    others[0].set_ylabel("density")
    for axis in (left, *others):
        sns.despine(ax=axis)
    return {"glorot2010": figure}


def _densities(axis: Axes, bins: pd.DataFrame, linewidth: float) -> None:
    for number, (_, rows) in enumerate(bins.groupby("layer")):
        finite = rows[np.isfinite(rows["left"]) & (rows["right"] > rows["left"])]
        width = finite["right"] - finite["left"]
        density = finite["count"] / (finite["count"].sum() * width)
        style = {"color": PALETTE[number], "linestyle": DASHES[number % len(DASHES)]}
        axis.plot((finite["left"] + finite["right"]) / 2, density, linewidth=linewidth, **style)


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
