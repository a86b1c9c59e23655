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
NEAR_CRITICAL = (0.95, 1.2)  # weight variances of critical points with small bias variance
ARMS = ["init", "phase"]
STYLES: dict[tuple[str, str], dict[str, Any]] = {
    (DELTA, CRITICAL): {"color": PALETTE[0], "label": "delta-orthogonal, critical"},
    (GAUSSIAN, CRITICAL): {"color": PALETTE[3], "linestyle": "--", "label": "Gaussian, critical"},
    (DELTA, ORDERED): {
        **{"color": PALETTE[2], "linestyle": "-.", "label": "delta-orthogonal, ordered"}
    },
    (DELTA, CHAOTIC): {"color": PALETTE[4], "linestyle": ":", "label": "delta-orthogonal, chaotic"},
}
SETTINGS = [
    *("model.depth", "model.width", "data.n_train", "data.side"),
    *("train.batch_size", "train.steps", "optim.momentum"),
]
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
    """Compare the critical point with the better of the two sides, at the rates of all three."""
    delta = cells[(cells["depth"] == cells["depth"].max()) & (cells["init"] == DELTA)]
    rates = set.intersection(*(set(arm["lr"]) for _, arm in delta.groupby("phase")))
    losses = _losses(delta[delta["lr"].isin(rates)])
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
    settings = results.cells[SETTINGS].astype(float).drop_duplicates("model.depth")
    return {CELLS: outcomes, "curves": curves, "settings": settings.sort_values("model.depth")}


def caption(tables: Tables) -> str:
    """Write the caption."""
    cells, settings = tables[CELLS], tables["settings"]
    (_, demo), (_, deep) = settings.iterrows()
    at = cells[cells["depth"] == deep["model.depth"]]
    rates = _listed(at["lr"])
    sides = _listed(at.loc[at["phase"] != CRITICAL, "lr"])
    variances = at.groupby("phase")["weight_var"].first().sort_values()
    points = ", ".join(f"{phase} {value:g}" for phase, value in variances.items())
    demo_cells = cells[cells["depth"] == demo["model.depth"]]
    return (
        "Tanh CNNs of 3 x 3 convolutions with circular padding on images of MNIST, "
        f"{deep['data.side']:.0f} x {deep['data.side']:.0f} pixels, SGD with momentum "
        f"{deep['optim.momentum']:g}: training loss / loss at chance, mean over "
        f"n = {cells['seed'].nunique()} seeds; band: their range. Left: first "
        f"{demo['train.steps']:,.0f} steps of the authors' demo, {_size(demo)}, learning rate "
        f"{demo_cells['lr'].iloc[0]:g}, variance of the weights times fan-in "
        f"{demo_cells['weight_var'].iloc[0]:g} (critical). Right: {_size(deep)}, "
        f"{deep['data.n_train']:,.0f} images, at the learning rate with the smallest final loss, "
        f"of {rates} (off the critical point, of {sides}; in the table, the rate of a seed is "
        f"tuned on the other seeds); variances of the weights times fan-in: {points}."
    )


def _listed(rates: pd.Series) -> str:
    return ", ".join(f"{rate:g}" for rate in sorted(rates.unique()))


def _size(setting: pd.Series) -> str:
    width, batch = (setting[name] for name in ("model.width", "train.batch_size"))
    return f"{width:.0f} channels, batches of {batch:.0f}"


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the training loss at each depth."""
    cells, curves = tables[CELLS], tables["curves"]
    depths = sorted(cells["depth"].unique())
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    runs = curves.merge(best_rates(cells, ["depth", *ARMS]), on=["depth", *ARMS, "lr"])
    for axis, depth in zip(axes, depths, strict=True):
        for (init, phase), style in STYLES.items():
            arm = runs[(runs["init"] == init) & (runs["phase"] == phase)]
            at_depth = arm[arm["depth"] == depth]
            if len(at_depth):
                plot_runs(axis, at_depth, **style)
        axis.set_title(f"{depth - 1:.0f} convolutions", fontsize="medium")
    axes[0].set_ylabel("training loss / chance")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper center", ncols=4,
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
