"""Study `he2015`: training of 22- and 30-layer ReLU networks from He's and Xavier's init."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.figures.style import PALETTE
from analysis.figures.training_runs import (
    best_rates,
    gradient_decay,
    plot_runs,
    training_outcomes,
)
from analysis.load import Results
from analysis.scoring.effects import per_seed, tuned
from analysis.scoring.scored_study import ScoredStudy, Tables
from analysis.scoring.summary import CELLS

SIZE = (7.2, 2.7)  # inches
HE, XAVIER = "he_normal", "xavier_normal"
SHALLOW, DEEP = 22, 30
STYLES: dict[str, dict[str, Any]] = {
    HE: {"color": PALETTE[0], "linestyle": "-", "label": "He"},
    XAVIER: {"color": PALETTE[3], "linestyle": "--", "label": "Xavier"},
}
DESIGN = {"seed": "seed", "depth": "model.depth", "init": "init", "lr": "optim.lr"}


def he_advantage(cells: pd.DataFrame, depth: int, outcome: str = "loss") -> pd.Series:
    """Return Xavier's minus He's training loss at their tuned rates, by seed."""
    rows = cells[cells["depth"] == depth]
    by_init = tuned(rows, ["init"], "lr", "loss", outcome)
    return by_init[XAVIER] - by_init[HE]


def _growth(cells: pd.DataFrame) -> pd.Series:
    return he_advantage(cells, DEEP) - he_advantage(cells, SHALLOW)


def _decay(cells: pd.DataFrame) -> float:
    by_init = cells[cells["depth"] == DEEP].groupby("init")["decay"].mean()
    return float(by_init[HE] - by_init[XAVIER])


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return the losses and the decay of the gradients of each network, and the curves."""
    outcomes, curves = training_outcomes(results, DESIGN)
    decay = gradient_decay(results).reindex(results.cells["cell_id"].astype(str))
    layers = results.layers
    gradients = layers[(layers["quantity"] == "grad_m2") & (layers["image"] == -1)]
    gradients = gradients.merge(results.cells[["cell_id", *DESIGN.values()]])
    by_layer = gradients.groupby(["init", "model.depth", "layer"], observed=True)["value"].mean()
    by_layer = by_layer.reset_index().astype({"init": str})
    about = ["model.width", "data.n_train", "data.side", "train.steps", "train.batch_size"]
    setting = results.cells[about].iloc[:1].astype(float).reset_index(drop=True)
    return {
        CELLS: outcomes.assign(decay=decay.to_numpy()),
        "curves": curves,
        "gradients": by_layer.rename(columns={"model.depth": "depth"}),
        "setting": setting,
    }


def caption(tables: Tables) -> str:
    """Write the caption."""
    cells, setting = tables[CELLS], tables["setting"].iloc[0]
    rates = ", ".join(f"{rate:g}" for rate in sorted(cells["lr"].unique()))
    return (
        f"ReLU networks of 3 x 3 convolutions with {setting['model.width']:.0f} channels on "
        f"{setting['data.n_train']:,.0f} images of CIFAR-10, {setting['data.side']:.0f} x "
        f"{setting['data.side']:.0f} pixels, SGD with momentum, {setting['train.steps']:,.0f} "
        f"steps. Training loss / loss at chance at the learning rate with the smallest final loss, "
        f"of {rates}: mean over n = {cells['seed'].nunique()} seeds; band: their range. In the "
        "table, the rate of a seed is tuned on the other seeds. Right: second moment of the "
        "gradient with respect to each layer's pre-activations at initialization, mean over seeds."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the training loss at both depths, and the gradients by layer."""
    cells, curves, gradients = (tables[name] for name in (CELLS, "curves", "gradients"))
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, 3)
    best = best_rates(cells, ["depth", "init"])
    runs = curves.merge(best, on=["depth", "init", "lr"])
    depths = sorted(cells["depth"].unique())
    for axis, depth in zip(axes, (depths[0], depths[-1]), strict=False):
        for init, style in STYLES.items():
            plot_runs(axis, runs[(runs["depth"] == depth) & (runs["init"] == init)], **style)
        axis.set_title(f"{depth:.0f} weight layers", fontsize="medium")
    axes[0].set_ylabel("training loss / chance")
    axes[0].legend(frameon=False, fontsize="small")
    for init, style in STYLES.items():
        rows = gradients[(gradients["init"] == init) & (gradients["depth"] == depths[-1])]
        rows = rows[rows["layer"] > 0]
        axes[2].plot(rows["layer"], rows["value"], **style)
    axes[2].set_yscale("log")
    axes[2].set_xlabel("layer")
    axes[2].set_ylabel("second moment of the gradient")
    axes[2].set_title(f"{depths[-1]:.0f} weight layers", fontsize="medium")
    sns.despine(ax=axes[2])
    return {"he2015": figure}


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("loss", "mean_loss", "decay"),
    effects={
        "he_advantage_30": lambda cells: he_advantage(cells, DEEP),
        "he_advantage_growth": _growth,
        "he_earlier_22": lambda cells: he_advantage(cells, SHALLOW, "mean_loss"),
        "gradient_decay_difference": per_seed(_decay),
    },
    figures=figures,
    caption=caption,
)
