"""Study `lewkowycz2020`: stable learning rates and the curvature at initialization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.figures.query import bracket, initial_sharpness, select
from analysis.figures.style import PALETTE
from analysis.load import Results
from analysis.scoring.effects import per_seed
from analysis.scoring.scored_study import ScoredStudy, Tables
from analysis.scoring.summary import CELLS
from analysis.scoring.verdict import Effect
from fanin.errors import FaninError
from fanin.probes.measure import WHOLE_NETWORK

SIZE = (7.2, 2.8)  # inches
MIN_RISE = 1e-4  # relative increase of the loss in one step that counts as a rise
FIRST_STEPS = 20  # a rise within these steps counts
ONSET, LINEAR_LIMIT = 2.0, 4.0  # in units of 1 / lambda_0, as the paper claims
LAZY_BELOW = 1.0  # rates below this are far from the onset
NETWORKS = {
    "identity": "linear, 1 hidden layer",
    "relu": "ReLU, 2 hidden layers",
    "tanh": "tanh, 2 hidden layers",
}


def onset(cells: pd.DataFrame, outcome: str) -> float:
    """Return lambda_0 times the learning rate from which an outcome occurs.

    It is the geometric mean of the first rate with the outcome and the rate before; NaN if the
    smallest rate already has it, or no rate does.

    Parameters
    ----------
    cells
        One network at several rates: `x` (rate times lambda_0) and the outcome (0 or 1).
    """
    by_rate = cells.sort_values("x")
    before, first = bracket(by_rate["x"].to_numpy(float), by_rate[outcome].to_numpy(float) > 0)
    return float(np.sqrt(before * first)) if before and np.isfinite(first) else np.nan


def _deviation(cells: pd.DataFrame, network: str, outcome: str, claimed: float) -> float:
    """Return the mean over the gains of a network of log2(measured / claimed onset)."""
    gains = cells[cells["network"] == network].groupby("gain")
    return float(np.mean([np.log2(onset(rows, outcome) / claimed) for _, rows in gains]))


def rise_deviation(network: str) -> Effect:
    """Return the effect: log2 of the rate from which a network's loss rises, minus claimed."""
    return per_seed(lambda cells: _deviation(cells, network, "rises", ONSET))


def _largest_deviation(cells: pd.DataFrame) -> float:
    """Return the largest deviation of the onset over the three networks, in either direction."""
    deviations = [_deviation(cells, network, "rises", ONSET) for network in NETWORKS]
    return float(np.abs(deviations).max())


def rises_from(multiple: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return a null model: the loss rises at rates above another multiple of 1 / lambda_0."""
    return lambda cells: cells.assign(rises=(cells["x"] > multiple).astype(float))


def diverges_from(multiple: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return a null model: networks diverge at rates above another multiple of 1 / lambda_0."""
    return lambda cells: cells.assign(diverges=(cells["x"] > multiple).astype(float))


def _flattening(cells: pd.DataFrame) -> float:
    """Return the change of log2 curvature in training at catapult rates, minus at lazy rates."""
    lasting = cells[cells["diverges"] == 0]
    catapult = lasting[(lasting["x"] > ONSET) & (lasting["x"] < LINEAR_LIMIT)]
    lazy = lasting[lasting["x"] < LAZY_BELOW]
    return float(catapult["flattening"].mean() - lazy["flattening"].mean())


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return for each network and rate whether the loss rises or diverges, and the curvatures."""
    if results.curves.empty or results.layers.empty:
        raise FaninError(f"{results.folder.root}: no network has been trained yet; run the sweep")
    cells, curves = results.cells, results.curves
    ids = cells["cell_id"].astype(str)
    initial = ids.map(initial_sharpness(results.layers))
    early = curves[(curves["metric"] == "train_loss") & (curves["step"] <= FIRST_STEPS)]
    by_step = early.pivot_table(index=early["cell_id"].astype(str), columns="step", values="value")
    values = by_step.to_numpy(float)
    rises = pd.Series(
        (values[:, 1:] > values[:, :-1] * (1 + MIN_RISE)).any(axis=1), index=by_step.index
    )
    diverges = (cells["outcome"] == "diverged").to_numpy()
    late = ids.map(_late_sharpness(results)).clip(lower=1e-9).where(~diverges)
    table = pd.DataFrame(
        {
            "seed": cells["seed"].astype(int),
            "network": cells["activation"].astype(str),
            "gain": cells["init.gain"].astype(float),
            "lr": cells["optim.lr"].astype(float),
            "x": cells["optim.lr"].astype(float) * initial,
            "rises": (ids.map(rises).fillna(True).astype(bool) | diverges).astype(float),
            "diverges": diverges.astype(float),
            # A network that diverged has no late curvature; no effect reads its 0.
            "flattening": np.log2(late / initial).fillna(0.0),
        }
    )
    about = ["model.width", "data.n_train", "train.steps"]
    return {CELLS: table, "setting": cells[about].iloc[:1].astype(float).reset_index(drop=True)}


def _late_sharpness(results: Results) -> pd.Series:
    """Return the largest Hessian eigenvalue before the last probed step, by cell id."""
    rows = select(results.layers, quantity="sharpness", layer=WHOLE_NETWORK, draw=0)
    late = rows[rows["step"] > 0].sort_values("step")
    return late.groupby(late["cell_id"].astype(str))["value"].last()


def caption(tables: Tables) -> str:
    """Write the caption."""
    cells, setting = tables[CELLS], tables["setting"].iloc[0]
    return (
        f"Networks of width {setting['model.width']:.0f} under full-batch gradient descent with "
        f"mean squared error on {setting['data.n_train']:.0f} images of MNIST, "
        f"{setting['train.steps']:.0f} steps. Dots: networks of n = {cells['seed'].nunique()} "
        f"seeds and {cells['gain'].nunique()} gains of the weights. Horizontal: learning rate in "
        "units of 1 / lambda_0, with lambda_0 the largest Hessian eigenvalue at initialization, "
        "measured for each network; lines: 2 and 4. Vertical: that eigenvalue at the end of "
        "training, relative to lambda_0 (networks that diverged: at the bottom)."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the curvature at the end of training against the learning rate."""
    cells = tables[CELLS]
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, len(NETWORKS), sharex=True, sharey=True)
    bottom = float(cells["flattening"].clip(lower=-8).min()) - 1
    styles: dict[str, dict[str, Any]] = {
        "loss falls at once": {"color": PALETTE[0], "marker": "o", "s": 8},
        "loss rises first": {"color": PALETTE[1], "marker": "^", "s": 12},
        "diverges": {"color": "black", "marker": "x", "s": 12, "linewidth": 0.8},
    }
    rises = np.where(cells["rises"] > 0, "loss rises first", "loss falls at once")
    regime = np.where(cells["diverges"] > 0, "diverges", rises)
    for axis, (network, name) in zip(axes, NETWORKS.items(), strict=True):
        for label, style in styles.items():
            rows = cells[(cells["network"] == network) & (regime == label)]
            height = bottom if label == "diverges" else rows["flattening"]
            axis.scatter(rows["x"], np.broadcast_to(height, len(rows)), label=label, **style)
        for line in (ONSET, LINEAR_LIMIT):
            axis.axvline(line, color="0.5", linestyle="--", linewidth=0.8, zorder=0)
        axis.set_xscale("log")
        axis.set_title(name, fontsize="medium")
        sns.despine(ax=axis)
    axes[0].set_ylabel("log2 of late curvature / initial")
    figure.supxlabel(r"learning rate times $\lambda_0$", fontsize="medium")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3,
                  frameon=False)  # fmt: skip
    return {"lewkowycz2020": figure}


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("rises", "diverges", "flattening"),
    effects={
        "largest_onset_deviation": per_seed(_largest_deviation),
        "linear_onset_deviation": rise_deviation("identity"),
        "relu_onset_deviation": rise_deviation("relu"),
        "tanh_onset_deviation": rise_deviation("tanh"),
        "linear_limit_deviation": per_seed(
            lambda cells: _deviation(cells, "identity", "diverges", LINEAR_LIMIT)
        ),
        "flattening": per_seed(_flattening),
    },
    figures=figures,
    caption=caption,
    null_models={
        **{f"onset at {onset} / lambda_0": rises_from(onset) for onset in (1.4, 2.8)},
        **{f"divergence at {onset} / lambda_0": diverges_from(onset) for onset in (2.8, 5.6)},
    },
)
