"""Study `lewkowycz2020`: stable learning rates and the curvature at initialization."""

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
from analysis.figures.study import NO_THRESHOLD, ClaimResult, Study
from analysis.figures.style import PALETTE
from analysis.load import Results
from fanin.errors import FaninError

CLAIM = (
    "With mean squared error, the loss decreases from the first step at learning rates below 2 / "
    "lambda_0, with lambda_0 the largest Hessian eigenvalue at initialization. Above that rate, "
    "the loss first rises, then training reaches a lower curvature. A linear network with one "
    "hidden layer diverges above 4 / lambda_0."
)
SIZE = (6.8, 4.4)  # inches
MIN_RISE = 1e-4  # relative increase of the loss in one step that counts as a rise
LOSSES = {"mse": "mean squared error", "cross_entropy": "cross entropy"}
NETWORKS = {
    "identity": "linear, 1 hidden layer",
    "relu": "ReLU, 2 hidden layers",
    "tanh": "tanh, 2 hidden layers",
}
REFERENCE_LINES = (2.0, 4.0, 12.0)  # in units of 1 / lambda_0
REGIMES: dict[str, dict[str, Any]] = {
    "falls at once": {"color": PALETTE[0], "marker": "o", "s": 8},
    "rises first": {"color": PALETTE[1], "marker": "^", "s": 12},
    "diverges": {"color": "black", "marker": "x", "s": 12, "linewidth": 0.8},
}


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Test at which learning rates the loss first rises and at which training diverges.

    Parameters
    ----------
    results
        Results of the sweep `lewkowycz2020`.
    criterion
        Ranges in units of 1 / lambda_0 (lambda_0: largest Hessian eigenvalue at initialization):
        `onset`, for the smallest learning rate at which the mean squared error of a network rises,
        and `linear`, for the smallest at which the linear network diverges. `first_steps`: number
        of steps in which a rise counts.
    """
    regimes = _regimes(results, int(criterion["first_steps"]))
    if regimes.empty:
        raise FaninError(f"{results.folder.root}: no network has been trained yet; run the sweep")
    cells = results.cells
    caption = (
        f"Networks of width {int(cells['model.width'].iloc[0])} under full-batch gradient descent "
        f"on {int(cells['data.n_train'].iloc[0])} digits, {int(cells['train.steps'].iloc[0])} "
        f"steps. Rows: {regimes['gain'].nunique()} gains of the weights, "
        f"{regimes['seed'].nunique()} seeds each. Learning rates increase by a factor of 1.25, in "
        "units of 1 / lambda_0, with lambda_0 measured for each network. Dashed lines: 2, 4 and 12 "
        "/ lambda_0."
    )
    claim_results = tuple(_claim_results(regimes, criterion))
    return Study(CLAIM, {"lewkowycz2020": _figure(regimes)}, caption, claim_results)


def _regimes(results: Results, first_steps: int) -> pd.DataFrame:
    """Return one row per cell: `network`, `loss`, `gain`, `seed`, `x` (lr * lambda_0), `regime`."""
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


def onsets(regimes: pd.DataFrame, names: tuple[str, ...]) -> list[float]:
    """Return lambda_0 times the learning rate above which each network is in one of the regimes.

    The rate is the geometric mean of the first rate in one of the regimes and the rate before it.
    It is inf if no rate of the grid is in one of them, and NaN if the smallest rate already is.
    """
    values = []
    for _, rows in regimes.groupby(["network", "loss", "gain", "seed"]):
        by_rate = rows.sort_values("x")
        in_regime = by_rate["regime"].isin(names).to_numpy()
        before, first = bracket(by_rate["x"].to_numpy(float), in_regime)
        values.append(float(np.sqrt(before * first)) if before else float("nan"))
    return values


def _claim_results(regimes: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    for loss, loss_label in LOSSES.items():
        for network, label in NETWORKS.items():
            rows = regimes[(regimes["network"] == network) & (regimes["loss"] == loss)]
            rises = onsets(rows, ("rises first", "diverges"))
            diverges = onsets(rows, ("diverges",))
            claimed = loss == "mse"
            low, high = criterion["onset"]
            holds = _within(rises, low, high) if claimed else None
            yield ClaimResult(
                f"{loss_label}, {label}: smallest learning rate at which the loss rises, times "
                "lambda_0",
                "2 (paper's theory)" if claimed else "no claim",
                _range(rises),
                holds,
                claimed and holds is None,
                threshold=f"{low:g} to {high:g}" if claimed else NO_THRESHOLD,
                cells={"loss": loss, "activation": network},
            )
            low, high = criterion["linear"]
            is_linear = claimed and network == "identity"
            holds = _within(diverges, low, high) if is_linear else None
            yield ClaimResult(
                f"{loss_label}, {label}: smallest learning rate that diverges, times lambda_0",
                "4 (paper's theory)" if is_linear else "no exact claim",
                _range(diverges),
                holds,
                is_linear and holds is None,
                threshold=f"{low:g} to {high:g}" if is_linear else NO_THRESHOLD,
                cells={"loss": loss, "activation": network},
            )


def _within(values: list[float], low: float, high: float) -> bool | None:
    """Return True if all values that are not NaN are in the range; None if all are NaN."""
    valid = [value for value in values if not np.isnan(value)]
    return low <= min(valid) and max(valid) <= high if valid else None


def _range(values: list[float]) -> str:
    valid = [value for value in values if not np.isnan(value)]
    if not values:
        return "no finished network"
    if not valid:
        return "already at the smallest tested rate"
    ends = min(valid), max(valid)
    low, high = (f"{v:.2g}" if np.isfinite(v) else "above the largest tested rate" for v in ends)
    span = low if low == high else f"{low} to {high}"
    missing = len(values) - len(valid)
    others = f"; in {missing} others already at the smallest tested rate" if missing else ""
    return f"{span} ({len(valid)} networks{others})"


def _figure(regimes: pd.DataFrame) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(len(LOSSES), len(NETWORKS), sharex=True, sharey=True)
    for row, (loss, loss_label) in zip(axes, LOSSES.items(), strict=True):
        for axis, (network, name) in zip(row, NETWORKS.items(), strict=True):
            _panel(axis, regimes[(regimes["network"] == network) & (regimes["loss"] == loss)])
            axis.set_title(f"{name}\n{loss_label}", fontsize="small")
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
        rows = regimes["regime"] == regime
        axis.scatter(regimes.loc[rows, "x"], place[rows], **style)
    axis.set_xscale("log")
    axis.set_yticks(range(len(gains)), [f"{gain:g}" for gain in gains])
    sns.despine(ax=axis)
