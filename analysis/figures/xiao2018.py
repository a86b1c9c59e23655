"""Study `xiao2018`: which weights let a tanh CNN of hundreds of layers train."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import PALETTE
from analysis.figures.training_runs import best_rates, plot_runs, training_outcomes
from analysis.load import Results
from analysis.scoring.effects import tuned
from analysis.scoring.scored_study import ScoredStudy, Tables
from analysis.scoring.summary import CELLS

SIZE = (7.2, 2.7)  # inches
DELTA, GAUSSIAN = "delta_orthogonal", "lecun_normal"
CRITICAL, ORDERED, CHAOTIC = "critical", "ordered", "chaotic"
NEAR_CRITICAL = (0.95, 1.1)  # weight variances of critical points with small bias variance
ARMS = ["init", "phase"]
STYLES: dict[tuple[str, str], dict[str, Any]] = {
    (DELTA, CRITICAL): {"color": PALETTE[0], "label": "delta-orthogonal, critical"},
    (GAUSSIAN, CRITICAL): {"color": PALETTE[3], "linestyle": "--", "label": "Gaussian, critical"},
    (DELTA, ORDERED): {
        **{"color": PALETTE[2], "linestyle": "-.", "label": "delta-orthogonal, ordered"}
    },
    (DELTA, CHAOTIC): {"color": PALETTE[4], "linestyle": ":", "label": "delta-orthogonal, chaotic"},
}
DESIGN = {
    **{"seed": "seed", "depth": "model.depth", "init": "init", "gain": "init.gain"},
    "lr": "optim.lr",
}


def _losses(cells: pd.DataFrame) -> pd.DataFrame:
    return tuned(cells[cells["depth"] == cells["depth"].max()], ARMS, "lr", "loss")


def _delta_advantage(cells: pd.DataFrame) -> pd.Series:
    losses = _losses(cells)
    return losses[GAUSSIAN, CRITICAL] - losses[DELTA, CRITICAL]


def _critical_advantage(cells: pd.DataFrame) -> pd.Series:
    """Compare the critical point with the better of the two sides."""
    losses = _losses(cells)
    sides = losses[[(DELTA, ORDERED), (DELTA, CHAOTIC)]].min(axis=1)
    return sides - losses[DELTA, CRITICAL]


def with_phase(table: pd.DataFrame, weight_var: pd.Series) -> pd.DataFrame:
    """Add the columns `weight_var` and `phase`."""
    low, high = NEAR_CRITICAL
    phase = np.where(weight_var < low, ORDERED, np.where(weight_var > high, CHAOTIC, CRITICAL))
    return table.assign(weight_var=weight_var.round(4), phase=phase)


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return the final loss of each network, and the curves."""
    outcomes, curves = (
        with_phase(table.drop(columns="gain"), table["gain"].astype(float) ** 2)
        for table in training_outcomes(results, DESIGN)
    )
    about = ["model.width", "data.n_train", "data.side", "train.steps", "optim.momentum"]
    setting = results.cells[about].iloc[:1].astype(float).reset_index(drop=True)
    return {CELLS: outcomes, "curves": curves, "setting": setting}


def caption(tables: Tables) -> str:
    """Write the caption."""
    cells, setting = tables[CELLS], tables["setting"].iloc[0]
    rates = ", ".join(f"{rate:g}" for rate in sorted(cells["lr"].unique()))
    by_phase = cells.groupby("phase")["weight_var"].first().sort_values()
    variances = ", ".join(f"{phase} {value:g}" for phase, value in by_phase.items())
    return (
        f"Tanh CNNs of 3 x 3 convolutions with {setting['model.width']:.0f} channels and circular "
        f"padding on {setting['data.n_train']:,.0f} images of MNIST, {setting['data.side']:.0f} x "
        f"{setting['data.side']:.0f} pixels, SGD with momentum {setting['optim.momentum']:g}, "
        f"{setting['train.steps']:,.0f} steps. Training loss / loss at chance at the learning rate "
        f"with the smallest final loss, of {rates}: mean over n = {cells['seed'].nunique()} seeds; "
        "band: their range. In the table, the rate of a seed is tuned on the other seeds. "
        f"Variances of the weights times fan-in: {variances}."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the training loss at each depth."""
    cells, curves = tables[CELLS], tables["curves"]
    depths = sorted(cells["depth"].unique())
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    runs = curves.merge(best_rates(cells, ["depth", *ARMS]), on=["depth", *ARMS, "lr"])
    for axis, depth in zip(axes, depths, strict=True):
        for (init, phase), style in STYLES.items():
            arm = (runs["init"] == init) & (runs["phase"] == phase)
            plot_runs(axis, runs[arm & (runs["depth"] == depth)], **style)
        axis.set_title(f"{depth:.0f} weight layers", fontsize="medium")
    axes[0].set_ylabel("training loss / chance")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4,
                  frameon=False, fontsize="small")  # fmt: skip
    return {"xiao2018": figure}


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("loss", "mean_loss"),
    effects={
        "delta_advantage": _delta_advantage,
        "critical_advantage": _critical_advantage,
    },
    figures=figures,
    caption=caption,
)
