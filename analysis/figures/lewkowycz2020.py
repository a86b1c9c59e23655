"""Stable learning rates, by the curvature at initialization (Lewkowycz et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.query import bracket, initial_sharpness
from analysis.figures.study import ClaimResult, Study
from analysis.figures.style import PALETTE
from analysis.load import Results
from fanin.errors import FaninError

CLAIM = (
    "With mean squared error the loss falls at once below 2 / lambda_0, lambda_0 the largest "
    "Hessian eigenvalue at initialization; above it rises first and settles at lower curvature; a "
    "linear network with one hidden layer diverges above 4 / lambda_0."
)
SIZE = (6.8, 4.4)  # inches
MIN_RISE = 1e-4  # of the loss, from one step to the next, relative
LOSSES = {"mse": "mean squared error", "cross_entropy": "cross entropy"}
NETWORKS = {
    "identity": "linear, 1 hidden layer",
    "relu": "ReLU, 2 hidden",
    "tanh": "tanh, 2 hidden",
}
REFERENCE_LINES = (2.0, 4.0, 12.0)  # times 1 / lambda_0
REGIMES: dict[str, dict[str, Any]] = {
    "falls at once": {"color": PALETTE[0], "marker": "o", "s": 8},
    "rises first": {"color": PALETTE[1], "marker": "^", "s": 12},
    "diverges": {"color": "black", "marker": "x", "s": 12, "linewidth": 0.8},
}


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Say in units of 1 / lambda_0 where the loss first rises and where training diverges.

    Parameters
    ----------
    results
        Of the sweep `lewkowycz2020`.
    criterion
        `onset` and `linear`: between which values every network's onset (mean squared error), and
        the linear one's divergence, have to lie; `first_steps`, in which the loss has to rise.
    """
    regimes = _regimes(results, int(criterion["first_steps"]))
    if regimes.empty:
        raise FaninError(f"{results.folder.root}: no network was trained yet")
    cells = results.cells
    caption = (
        f"Networks of width {int(cells['model.width'].iloc[0])} under full-batch gradient descent "
        f"on {int(cells['data.n_train'].iloc[0])} digits, {int(cells['train.steps'].iloc[0])} "
        f"steps. Rows: {regimes['gain'].nunique()} gains of the weights, "
        f"{regimes['seed'].nunique()} seeds each. Learning rates increase by a factor of 1.25, in "
        "units of 1 / lambda_0, with lambda_0 measured for each network. Dashed lines: 2, 4 and 12 "
        "/ lambda_0."
    )
    results_of_claims = tuple(_claim_results(regimes, criterion))
    return Study(CLAIM, {"lewkowycz2020": _figure(regimes)}, caption, results_of_claims)


def _regimes(results: Results, first_steps: int) -> pd.DataFrame:
    """A row per cell: `network`, `loss`, `gain`, `seed`, `x` (lr lambda_0) and its `regime`."""
    if results.curves.empty or results.layers.empty:
        return pd.DataFrame()
    layers, curves, cells = results.layers, results.curves, results.cells.set_index("cell_id")
    curvature = initial_sharpness(layers).reindex(cells.index.astype(str)).to_numpy()
    early = curves[(curves["metric"] == "train_loss") & (curves["step"] <= first_steps)]
    by_step = early.pivot_table(index="cell_id", columns="step", values="value", observed=True)
    values = by_step.to_numpy(float)
    rises = pd.Series(
        (values[:, 1:] > values[:, :-1] * (1 + MIN_RISE)).any(axis=1), index=by_step.index
    ).reindex(cells.index, fill_value=True)
    regime = np.where(rises, "rises first", "falls at once")
    return pd.DataFrame(
        {
            "network": cells["activation"].astype(str),
            "loss": cells["loss"].astype(str),
            "gain": cells["init.gain"].astype(float),
            "seed": cells["seed"].astype(int),
            "x": cells["optim.lr"].astype(float) * curvature,
            "regime": np.where(cells["outcome"] == "diverged", "diverges", regime),
        }
    )


def onsets(regimes: pd.DataFrame, wanted: tuple[str, ...]) -> list[float]:
    """Of each network, where its learning rates first have such a regime, in units of 1 / lambda_0.

    Midway, in logarithm, between the last learning rate below and the first above; inf where none
    of those tried has it, NaN where all have.
    """
    found = []
    for _, mine in regimes.groupby(["network", "loss", "gain", "seed"]):
        run = mine.sort_values("x")
        below, above = bracket(run["x"].to_numpy(float), run["regime"].isin(wanted).to_numpy())
        found.append(float(np.sqrt(below * above)) if below else float("nan"))
    return found


def _claim_results(regimes: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    for loss, words in LOSSES.items():
        for network, name in NETWORKS.items():
            mine = regimes[(regimes["network"] == network) & (regimes["loss"] == loss)]
            onset = onsets(mine, ("rises first", "diverges"))
            end = onsets(mine, ("diverges",))
            claimed = loss == "mse"
            low, high = criterion["onset"]
            yield ClaimResult(
                f"{words}, {name}: where the loss first rises, times 1 / lambda_0",
                "2 (their theory)" if claimed else "nothing is claimed",
                _range(onset),
                _within(onset, low, high) if claimed else None,
            )
            low, high = criterion["linear"]
            linear = claimed and network == "identity"
            yield ClaimResult(
                f"{words}, {name}: where it diverges, times 1 / lambda_0",
                "4 (their theory)" if linear else "nothing exact is claimed",
                _range(end),
                _within(end, low, high) if linear else None,
            )


def _within(values: list[float], low: float, high: float) -> bool | None:
    """Return True if all that the grid brackets lie there; None where it brackets none."""
    seen = [value for value in values if not np.isnan(value)]
    return low <= min(seen) and max(seen) <= high if seen else None


def _range(values: list[float]) -> str:
    seen = [value for value in values if not np.isnan(value)]
    if not seen:
        return "below the grid"
    low, high = min(seen), max(seen)
    told = [f"{v:.2g}" if np.isfinite(v) else "beyond the grid" for v in (low, high)]
    span = told[0] if told[0] == told[1] else f"{told[0]} to {told[1]}"
    below = f", below the grid in {len(values) - len(seen)}" if len(seen) < len(values) else ""
    return f"{span} ({len(seen)} networks{below})"


def _figure(regimes: pd.DataFrame) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(len(LOSSES), len(NETWORKS), sharex=True, sharey=True)
    for row, (loss, words) in zip(axes, LOSSES.items(), strict=True):
        for axis, (network, name) in zip(row, NETWORKS.items(), strict=True):
            _panel(axis, regimes[(regimes["network"] == network) & (regimes["loss"] == loss)])
            axis.set_title(f"{name}\n{words}", fontsize="small")
        row[0].set_ylabel("gain of the weights", fontsize="small")
    figure.supxlabel(r"learning rate $\eta\,\lambda_0$ (dimensionless)", fontsize="medium")
    handles = [
        Line2D([], [], linestyle="", marker=style["marker"], color=style["color"], markersize=4,
               label=regime)
        for regime, style in REGIMES.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _panel(axis: Axes, regimes: pd.DataFrame) -> None:
    gains, seeds = sorted(regimes["gain"].unique()), sorted(regimes["seed"].unique())
    place = regimes["gain"].map(gains.index) + regimes["seed"].map(seeds.index) * 0.25 - 0.125
    for line in REFERENCE_LINES:
        axis.axvline(line, color="0.5", linestyle="--", linewidth=0.8, zorder=0)
    for regime, style in REGIMES.items():
        mine = regimes["regime"] == regime
        axis.scatter(regimes.loc[mine, "x"], place[mine], **style)
    axis.set_xscale("log")
    axis.set_yticks(range(len(gains)), [f"{gain:g}" for gain in gains])
    sns.despine(ax=axis)
