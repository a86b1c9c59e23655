"""Fluctuations of the length of activations with depth and width (Hanin and Rolnick 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.query import select
from analysis.figures.study import ClaimResult, Study
from analysis.figures.style import PALETTE
from analysis.load import Results
from fanin.errors import FaninError

CLAIM = (
    "Weights of variance 2/fan_in keep the mean length of ReLU activations at any depth, other "
    "inits lose it exponentially; the length fluctuates by the sum of 1/width over the layers."
)
SIZE = (6.6, 3.2)  # inches
KAPPA = 5.0  # E[relu^4] / E[relu^2]^2 - 1: a layer of n units adds KAPPA / n to var log M
BETAS = (0.125, 0.25, 0.5)
MARKS = ("o", "s", "^", "D", "v")
PER_LAYER = {  # factor of E[M] a layer in a square ReLU layer: fan_in Var[w] / 2
    **{"he_normal": 1.0, "he_uniform": 1.0, "xavier_normal": 0.5, "lecun_normal": 0.5},
    "pytorch_default": 1 / 6,
}


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Hold measured lengths against the claims.

    Parameters
    ----------
    results
        Of the sweep `hanin2018`.
    criterion
        `se`, how many standard errors He's mean may lie from 1; `factor`, by which var log M may
        differ from 5 beta, and between widths; `misses`, by which the other inits lose the mean.
    """
    lengths = _lengths(results)
    if lengths.empty:
        raise FaninError(f"{results.folder.root}: no layer was measured yet")
    table = _summary(lengths)
    draws = int(table["draws"].min())
    caption = (
        f"ReLU networks without biases on one Gaussian image; M_d is the second moment of layer "
        f"d's activations over that of the input, {draws} draws of all weights each. A: its mean "
        "at width 64 (bars: one standard error, by the predicted spread; lines: the product of "
        "the layers' factors). B: variance of its logarithm under He at widths 16 to 128, every "
        "layer; line: 5 beta."
    )
    figure = _figure(table)
    return Study(CLAIM, {"hanin2018": figure}, caption, tuple(_claim_results(table, criterion)))


def _lengths(results: Results) -> pd.DataFrame:
    """A row per draw and hidden layer: `init`, `width`, `layer`, `length` (M_d)."""
    if results.layers.empty:
        return pd.DataFrame()
    mine = select(results.layers, quantity="act_m2", image=-1)
    told = mine.merge(results.cells[["cell_id", "init", "model.width", "model.depth"]])
    told = told[(told["layer"] > 0) & (told["layer"] < told["model.depth"])]
    # Under He the first layer's mean is the input's second moment: one image for all cells.
    first = select(told, layer=1, init="he_normal")["value"].mean()
    return pd.DataFrame(
        {
            "init": told["init"].astype(str),
            "width": told["model.width"].astype(int),
            "layer": told["layer"].astype(int),
            "length": told["value"] / first,
        }
    )


def _summary(lengths: pd.DataFrame) -> pd.DataFrame:
    """By init, width and layer: `mean` and `var_log` of M, `beta`, `draws`, `relative_se`."""
    groups = lengths.groupby(["init", "width", "layer"], sort=False)["length"]
    alive = lengths[lengths["length"] > 0]  # of 16 units all may be dead
    logs = np.log(alive["length"]).groupby([alive[key] for key in ("init", "width", "layer")])
    table = groups.agg(mean="mean", draws="size").join(logs.var(ddof=1).rename("var_log"))
    table = table.reset_index()
    table["beta"] = table["layer"] / table["width"]
    # Of the mean, from the law and not from the draws: rare large ones are what a sample lacks.
    spread = (1 + KAPPA / table["width"]) ** table["layer"] - 1
    table["relative_se"] = np.sqrt(spread / table["draws"])
    return table


def _claim_results(table: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    first = table.groupby(["init", "width"])["mean"].transform("first")
    factor = table["init"].map(PER_LAYER)
    expected = table.assign(expected=first * factor ** (table["layer"] - 1))
    last = expected[table["layer"] == table.groupby(["init", "width"])["layer"].transform("max")]
    for row in last[last["init"].isin(["he_normal", "he_uniform"])].to_dict("records"):
        off = abs(row["mean"] - 1) / row["relative_se"]
        yield ClaimResult(
            f"{row['init']}, width {row['width']}, layer {row['layer']}: mean of M_d",
            "1 (their theorem)",
            f"{row['mean']:.2f} (se {row['relative_se']:.2f})",
            off <= criterion["se"],
        )
    for row in last[~last["init"].isin(["he_normal", "he_uniform"])].to_dict("records"):
        yield ClaimResult(
            f"{row['init']}, width {row['width']}, layer {row['layer']}: mean of M_d",
            f"far from 1 (their text); {row['expected']:.1e} by the product of the layers' factors",
            f"{row['mean']:.1e}",
            row["mean"] * criterion["misses"] < 1,
        )
    he = table[table["init"] == "he_normal"]
    for beta in BETAS:
        mine = he[np.isclose(he["beta"], beta)].sort_values("width")
        ratios = mine["var_log"] / (KAPPA * beta)
        shown = ", ".join(
            f"{v:.2f} ({w})" for v, w in zip(mine["var_log"], mine["width"], strict=True)
        )
        factor = float(criterion["factor"])
        near = bool(((ratios < factor) & (ratios > 1 / factor)).all())
        alike = mine["var_log"].max() / mine["var_log"].min() < factor
        yield ClaimResult(
            f"beta = {beta:g}: var log M_d, by width",
            f"{KAPPA * beta:.3g} to first order in 1/width (their formula), the same at all widths",
            shown,
            near and alike,
        )


def _figure(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    means, spreads = figure.subplots(1, 2)
    _means(means, table[table["width"] == 64])
    _spreads(spreads, table[table["init"] == "he_normal"])
    for axis, name in ((means, "A"), (spreads, "B")):
        axis.set_title(name, loc="left", fontweight="bold", fontsize="medium")
        axis.legend(frameon=False, fontsize="x-small")
        sns.despine(ax=axis)
    return figure


def _means(axis: Axes, table: pd.DataFrame) -> None:
    for number, (init, rows) in enumerate(table.groupby("init", sort=False)):
        style: dict[str, Any] = {"color": PALETTE[number], "markersize": 3}
        if number == 0:  # He's two inits lie on each other
            style |= {"markersize": 6, "markerfacecolor": "none"}
        every = rows.iloc[::3]
        error = every["mean"] * every["relative_se"]
        # Downwards a bar of a log axis must end above 0.
        bars = [np.minimum(error, 0.9 * every["mean"]), error]
        axis.errorbar(
            every["layer"], every["mean"], yerr=bars, fmt=MARKS[number], linewidth=0.8, **style
        )
        line = rows["mean"].iloc[0] * PER_LAYER[str(init)] ** (rows["layer"] - 1)
        axis.plot(rows["layer"], line, color=PALETTE[number], linewidth=1.0)
        axis.plot([], [], marker=MARKS[number], linewidth=1.0, label=str(init), **style)
    axis.set_yscale("log")
    axis.set_xlabel("layer $d$")
    axis.set_ylabel(r"mean length $\mathbb{E}[M_d]$")


def _spreads(axis: Axes, table: pd.DataFrame) -> None:
    for number, (width, rows) in enumerate(table.groupby("width")):
        axis.scatter(
            rows["beta"], rows["var_log"], s=9, linewidth=0, alpha=0.8,
            marker=MARKS[number], color=PALETTE[number], label=f"width {width}",
        )  # fmt: skip
    ends = np.array([0.0, table["beta"].max()])
    axis.plot(ends, KAPPA * ends, color="black", linewidth=1.0, label=r"$5\beta$")
    axis.set_xlabel(r"$\beta = \sum_{l \leq d} 1/n_l$")
    axis.set_ylabel(r"$\mathrm{Var}[\log M_d]$")
