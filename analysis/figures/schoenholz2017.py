"""Study `schoenholz2017`: the depth to which a tanh network trains against xi_c (Fig 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from analysis.figures.style import PALETTE
from analysis.load import Results
from analysis.scoring.effects import per_seed, rank_correlation, slope
from analysis.scoring.scored_study import ScoredStudy, Tables
from analysis.scoring.summary import CELLS
from fanin.errors import FaninError
from fanin.theory.depth_scales import depth_scales

SIZE = (7.2, 3.2)  # inches
TRAINED = 0.5  # test accuracy of a network that trains, halfway between chance and 0.9
# Sides of the critical weight variance, by the sign of the distance: marker and name.
SIDES = {-1: ("o", "below critical"), 0: ("s", "critical"), 1: ("^", "above critical")}


def trainable_depths(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the depth to which networks train, by weight variance.

    Between the deepest network that trains and the next deeper one, log depth is interpolated
    linearly in the accuracy. If no network trains, the depth is that of the shallowest one; if all
    train, that of the deepest one.

    Parameters
    ----------
    cells
        Networks of one seed and one number of steps: `weight_var`, `xi_c`, `depth`, `accuracy`.

    Returns
    -------
    pandas.DataFrame
        `weight_var`, `xi_c` and `trainable` (depth), ordered by weight variance.
    """
    rows = []
    for (weight_var, xi), networks in cells.groupby(["weight_var", "xi_c"]):
        by_depth = networks.sort_values("depth")
        depth, accuracy = (by_depth[name].to_numpy(float) for name in ("depth", "accuracy"))
        trains = np.flatnonzero(accuracy >= TRAINED)
        last = int(trains[-1]) if len(trains) else -1
        trainable = depth[max(last, 0)]
        if 0 <= last < len(depth) - 1:
            share = (accuracy[last] - TRAINED) / (accuracy[last] - accuracy[last + 1])
            trainable = depth[last] * (depth[last + 1] / depth[last]) ** share
        rows.append({"weight_var": weight_var, "xi_c": xi, "trainable": trainable})
    return pd.DataFrame(rows)


def _at(cells: pd.DataFrame, late: bool) -> pd.DataFrame:
    steps = cells["steps"].max() if late else cells["steps"].min()
    return trainable_depths(cells[cells["steps"] == steps])


def _critical(table: pd.DataFrame) -> float:
    """Return the weight variance with the largest xi_c."""
    return float(table["weight_var"].iloc[int(table["xi_c"].argmax())])


def _rank_correlation(cells: pd.DataFrame, late: bool = True) -> float:
    """Return the smaller of the rank correlations on the two sides of the critical point.

    The critical point belongs to both sides.
    """
    depths = _at(cells, late)
    critical = _critical(depths)
    ordered, chaotic = depths["weight_var"] <= critical, depths["weight_var"] >= critical
    sides = (depths[ordered], depths[chaotic])
    return min(rank_correlation(side["xi_c"], side["trainable"]) for side in sides)


def _slope(cells: pd.DataFrame) -> float:
    """Return the smaller of the slopes on the two sides of the critical point.

    Both sides count, because xi_c rises with the weight variance on one and falls on the other.
    """
    depths = _at(cells, late=True)
    critical = _critical(depths)
    off_critical = depths[depths["xi_c"] < cells["depth"].max()]
    sides = off_critical.groupby(off_critical["weight_var"] < critical)
    return min(slope(np.log(side["xi_c"]), np.log(side["trainable"])) for _, side in sides)


def flat_above_critical(cells: pd.DataFrame) -> pd.DataFrame:
    """Return networks that train to one depth at all variances above the critical one."""
    limits = _limits(cells)
    critical = _critical(cells)
    return _with_limits(cells, limits.where(limits.index <= critical, limits[critical]))


def peak_at_next_variance(cells: pd.DataFrame) -> pd.DataFrame:
    """Return networks that train deepest at the first weight variance above the critical one."""
    limits = _limits(cells)
    critical = _critical(cells)
    following = limits.index[limits.index > critical].min()
    exchanged = {critical: limits[following], following: limits[critical]}
    return _with_limits(cells, limits.mask(limits.index.isin(exchanged), pd.Series(exchanged)))


def _limits(cells: pd.DataFrame) -> pd.Series:
    """Return trainable depths that increase with xi_c and lie within the grid, by variance."""
    xi = cells.groupby("weight_var")["xi_c"].first().rank(pct=True)
    low, high = np.log(cells["depth"].min()), np.log(cells["depth"].max())
    return np.exp(low + (0.1 + 0.8 * xi) * (high - low))


def _with_limits(cells: pd.DataFrame, limits: pd.Series) -> pd.DataFrame:
    """Return networks whose accuracy is `TRAINED` at these depths."""
    share = cells["depth"] / cells["weight_var"].map(limits)
    return cells.assign(accuracy=np.minimum(1.0, 2 * TRAINED / (1 + share**3)))


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return the test accuracy of each network after each number of steps."""
    if results.curves.empty:
        raise FaninError(f"{results.folder.root}: no network has been trained yet; run the sweep")
    cells = results.cells
    weight_var = (cells["init.gain"].astype(float) ** 2).round(4)
    bias_var = float(cells["init.bias.std"].iloc[0]) ** 2
    xi = {var: depth_scales(torch.tanh, var, bias_var).xi_c for var in weight_var.unique()}
    design = pd.DataFrame(
        {
            "cell_id": cells["cell_id"].astype(str),
            "seed": cells["seed"].astype(int),
            "weight_var": weight_var,
            "xi_c": weight_var.map(xi),
            "depth": cells["model.depth"].astype(int),
        }
    )
    every, n_steps = (int(cells[name].iloc[0]) for name in ("train.evaluate_every", "train.steps"))
    steps = pd.DataFrame({"steps": [*range(every, n_steps, every), n_steps]})
    table = design.merge(steps, "cross").merge(_accuracies(results), "left", ["cell_id", "steps"])
    # A network that diverged has no accuracy and did not train.
    diverged = table["cell_id"].isin(design["cell_id"][(cells["outcome"] == "diverged").to_numpy()])
    table["accuracy"] = table["accuracy"].mask(diverged & table["accuracy"].isna(), 0.0)
    if table["accuracy"].isna().any():
        raise FaninError(f"{results.name}: networks without a test accuracy; run the sweep again")
    about = ["model.width", "data.n_train", "optim.lr", "optim.momentum", "init.bias.std"]
    setting = cells[about].iloc[:1].astype(float).reset_index(drop=True)
    return {CELLS: table.drop(columns="cell_id"), "setting": setting}


def _accuracies(results: Results) -> pd.DataFrame:
    """Return the test accuracies during training and after the last step, which is no curve's."""
    curves = results.curves[results.curves["metric"] == "test_accuracy"]
    during = curves[["cell_id", "step", "value"]].to_numpy()
    last = results.cells[["cell_id", "train.steps", "test_accuracy"]].to_numpy()
    rows = pd.DataFrame(np.concatenate([during, last]), columns=["cell_id", "steps", "accuracy"])
    return rows.astype({"cell_id": str, "steps": int, "accuracy": float})


def caption(tables: Tables) -> str:
    """Write the caption."""
    cells, setting = tables[CELLS], tables["setting"].iloc[0]
    steps = " and ".join(f"{n:,.0f}" for n in (cells["steps"].min(), cells["steps"].max()))
    return (
        f"Tanh networks of width {setting['model.width']:.0f} on {setting['data.n_train']:,.0f} "
        f"images of MNIST, bias variance {setting['init.bias.std'] ** 2:.2g}, SGD, learning rate "
        f"{setting['optim.lr']:g}, momentum {setting['optim.momentum']:g}. Left: test accuracy "
        f"after the last step, mean over n = {cells['seed'].nunique()} seeds. Right: depth to "
        f"which networks train (accuracy {TRAINED:g}) after {steps} steps, against the theory's "
        "depth scale xi_c, the number of layers in which the distance of the correlation of two "
        "images from its limit falls by a factor of e. Symbols: means over seeds; bars: their "
        "range; circles: weight variances below the critical one, triangles: above; squares, "
        "beyond the break of the axis: the critical variance."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw accuracy by depth and weight variance, and trainable depth against xi_c."""
    cells = tables[CELLS]
    figure = Figure(figsize=SIZE, layout="constrained")
    left, right, at_critical = figure.subplots(1, 3, width_ratios=[5, 4, 0.7])
    last = cells[cells["steps"] == cells["steps"].max()]
    accuracy = last.pivot_table(index="depth", columns="weight_var", values="accuracy")
    mesh = left.pcolormesh(
        range(len(accuracy.columns)), range(len(accuracy)), accuracy, cmap="cividis", vmin=0, vmax=1
    )
    left.set_xticks(range(len(accuracy.columns)), [f"{v:.3g}" for v in accuracy.columns])
    left.set_yticks(range(len(accuracy)), [f"{d:.0f}" for d in accuracy.index])
    left.set_xlabel(r"weight variance times fan-in, $\sigma_w^2$")
    left.set_ylabel("depth (weight layers)")
    figure.colorbar(mesh, ax=left, label="test accuracy")
    for color, late in ((PALETTE[1], False), (PALETTE[0], True)):
        _draw_depths(right, at_critical, cells, late, color)
    _break_axis(right, at_critical, f"{cells['xi_c'].max():,.0f}")
    right.set_xlabel(r"depth scale $\xi_c$ (layers, theory)")
    right.set_ylabel("trainable depth (layers)")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize="small"
    )
    return {"schoenholz2017": figure}


def _draw_depths(
    axis: Axes, at_critical: Axes, cells: pd.DataFrame, late: bool, color: object
) -> None:
    """Draw one number of steps: a marker for each side, the critical point on its own axis."""
    by_seed = pd.concat([_at(rows, late) for _, rows in cells.groupby("seed")])
    critical = _critical(by_seed)
    side = np.sign(by_seed["weight_var"] - critical)
    steps = cells["steps"].max() if late else cells["steps"].min()
    for sign, (marker, name) in SIDES.items():
        groups = by_seed[side == sign].groupby("xi_c")["trainable"]
        mean, low, high = groups.mean(), groups.min(), groups.max()
        (axis if sign else at_critical).errorbar(
            mean.index if sign else [0.0], mean, yerr=[mean - low, high - mean], fmt=marker,
            markersize=4, color=color, label=f"{steps:,.0f} steps, {name}",
        )  # fmt: skip


def _break_axis(axis: Axes, at_critical: Axes, label: str) -> None:
    """Mark the gap between the axis of xi_c and the critical point, and set the ticks."""
    axis.set_xscale("log")
    for panel in (axis, at_critical):
        panel.set_yscale("log")
    at_critical.sharey(axis)
    axis.autoscale(axis="y")
    for direction in (axis.xaxis, axis.yaxis):
        direction.set_major_locator(FixedLocator([2, 3, 5, 10, 20, 30, 50, 100, 200]))
        direction.set_minor_locator(NullLocator())
        direction.set_major_formatter(ScalarFormatter())
    at_critical.set_xlim(-1, 1)
    at_critical.set_xticks([0.0], [label])
    at_critical.tick_params(axis="y", which="both", left=False, labelleft=False)
    axis.spines["right"].set_visible(False)
    at_critical.spines["left"].set_visible(False)
    slash: dict[str, Any] = {
        **{"marker": [(-1, -2), (1, 2)], "markersize": 7, "linestyle": "none"},
        **{"color": "black", "clip_on": False},
    }
    axis.plot([1, 1], [0, 1], transform=axis.transAxes, **slash)
    at_critical.plot([0, 0], [0, 1], transform=at_critical.transAxes, **slash)


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("accuracy",),
    effects={
        "rank_correlation": per_seed(_rank_correlation),
        "early_rank_correlation": per_seed(lambda cells: _rank_correlation(cells, late=False)),
        "slope": per_seed(_slope),
    },
    figures=figures,
    caption=caption,
    null_models={
        "flat above the critical point": flat_above_critical,
        "peak at the next variance": peak_at_next_variance,
    },
)
