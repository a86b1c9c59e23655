"""Study `hanin2018`: fluctuations of activation lengths with depth and width."""

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
    "Weights of variance 2/fan_in keep the mean length of ReLU activations at any depth; with "
    "other inits it changes exponentially with depth. The fluctuation of the length grows with the "
    "sum of 1/width over the layers."
)
SIZE = (6.6, 3.2)  # inches
KAPPA = 5.0  # E[relu^4] / E[relu^2]^2 - 1: a layer of n units adds KAPPA / n to var log M
BETAS = (0.125, 0.25, 0.5)
MARKERS = ("o", "s", "^", "D", "v")
PER_LAYER = {  # factor of E[M] per square ReLU layer: fan_in Var[w] / 2
    **{"he_normal": 1.0, "he_uniform": 1.0, "xavier_normal": 0.5, "lecun_normal": 0.5},
    "pytorch_default": 1 / 6,
}


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Test the mean and the fluctuation of the activation lengths.

    Parameters
    ----------
    results
        Results of the sweep `hanin2018`.
    criterion
        `se`: allowed deviation of the mean from 1 with He init, in standard errors. `factor`:
        allowed factor between Var[log M] (M: normalized squared length) and 5 beta (beta: sum of
        1 / width over the layers), and between widths. `misses`: smallest factor by which the mean
        must decrease with the other inits.
    """
    lengths = _lengths(results)
    if lengths.empty:
        raise FaninError(f"{results.folder.root}: no layer has been measured yet; run the sweep")
    table = _summary(lengths)
    draws = int(table["draws"].min())
    caption = (
        f"ReLU networks without biases on one Gaussian image, {draws} draws of all weights each. "
        "Length M_d: second moment of the activations of layer d, divided by that of the input. A: "
        "mean at width 64 (error bars: one standard error, computed from the predicted spread; "
        "lines: product of the factors of the layers). B: variance of log M_d under He's init at "
        "widths 16 to 128, one dot per layer; line: 5 beta, with beta the sum of 1/width over the "
        "layers."
    )
    figure = _figure(table)
    return Study(CLAIM, {"hanin2018": figure}, caption, tuple(_claim_results(table, criterion)))


def _lengths(results: Results) -> pd.DataFrame:
    """Return one row per draw and hidden layer: `init`, `width`, `layer`, `length` (M_d).

    M_d is the paper's symbol for the normalized squared length.
    """
    if results.layers.empty:
        return pd.DataFrame()
    layers = select(results.layers, quantity="act_m2", image=-1)
    layers = layers.merge(results.cells[["cell_id", "init", "model.width", "model.depth"]])
    layers = layers[(layers["layer"] > 0) & (layers["layer"] < layers["model.depth"])]
    # With He init, the mean of the first layer is the input's second moment, equal in all cells.
    first = select(layers, layer=1, init="he_normal")["value"].mean()
    return pd.DataFrame(
        {
            "init": layers["init"].astype(str),
            "width": layers["model.width"].astype(int),
            "layer": layers["layer"].astype(int),
            "length": layers["value"] / first,
        }
    )


def _summary(lengths: pd.DataFrame) -> pd.DataFrame:
    """Return `mean`, `var_log`, `beta`, `draws`, `relative_se` of M by init, width and layer."""
    groups = lengths.groupby(["init", "width", "layer"], sort=False)["length"]
    alive = lengths[lengths["length"] > 0]  # all 16 units of a layer may be dead
    logs = np.log(alive["length"]).groupby([alive[key] for key in ("init", "width", "layer")])
    table = groups.agg(mean="mean", draws="size").join(logs.var(ddof=1).rename("var_log"))
    table = table.reset_index()
    table["beta"] = table["layer"] / table["width"]
    # Standard error from the theory, because a sample misses rare large values.
    spread = (1 + KAPPA / table["width"]) ** table["layer"] - 1
    table["relative_se"] = np.sqrt(spread / table["draws"])
    return table


def _claim_results(table: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    first = table.groupby(["init", "width"])["mean"].transform("first")
    factor = table["init"].map(PER_LAYER)
    expected = table.assign(expected=first * factor ** (table["layer"] - 1))
    last = expected[table["layer"] == table.groupby(["init", "width"])["layer"].transform("max")]
    for row in last[last["init"].isin(["he_normal", "he_uniform"])].to_dict("records"):
        deviation = abs(row["mean"] - 1) / row["relative_se"]
        yield ClaimResult(
            f"{row['init']}, width {row['width']}, layer {row['layer']}: mean of M_d",
            "1 (paper's theorem)",
            f"{row['mean']:.2f} (se {row['relative_se']:.2f})",
            deviation <= criterion["se"],
            threshold=f"within {criterion['se']:g} se of 1",
        )
    for row in last[~last["init"].isin(["he_normal", "he_uniform"])].to_dict("records"):
        yield ClaimResult(
            f"{row['init']}, width {row['width']}, layer {row['layer']}: mean of M_d",
            "far from 1 (paper's text); the product of the layers' factors is "
            f"{row['expected']:.1e}",
            f"{row['mean']:.1e}",
            row["mean"] * criterion["misses"] < 1,
            threshold=f"below {1 / criterion['misses']:g}",
        )
    he = table[table["init"] == "he_normal"]
    for beta in BETAS:
        rows = he[np.isclose(he["beta"], beta)].sort_values("width")
        ratios = rows["var_log"] / (KAPPA * beta)
        measured = ", ".join(
            f"width {w}: {v:.2f}" for v, w in zip(rows["var_log"], rows["width"], strict=True)
        )
        factor = float(criterion["factor"])
        near = bool(((ratios < factor) & (ratios > 1 / factor)).all())
        equal = rows["var_log"].max() / rows["var_log"].min() < factor
        yield ClaimResult(
            f"beta = {beta:g}: variance of log M_d, by width",
            f"{KAPPA * beta:.3g} at all widths, to first order in 1/width (paper's formula)",
            measured,
            near and equal,
            threshold=f"each within a factor of {factor:g}; largest / smallest below {factor:g}",
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
        if number == 0:  # open markers, because he_normal and he_uniform coincide
            style |= {"markersize": 6, "markerfacecolor": "none"}
        thinned = rows.iloc[::3]
        error = thinned["mean"] * thinned["relative_se"]
        # On a log axis the lower end of an error bar must be positive.
        bars = [np.minimum(error, 0.9 * thinned["mean"]), error]
        axis.errorbar(
            thinned["layer"],
            thinned["mean"],
            yerr=bars,
            fmt=MARKERS[number],
            linewidth=0.8,
            **style,
        )
        line = rows["mean"].iloc[0] * PER_LAYER[str(init)] ** (rows["layer"] - 1)
        axis.plot(rows["layer"], line, color=PALETTE[number], linewidth=1.0)
        axis.plot([], [], marker=MARKERS[number], linewidth=1.0, label=str(init), **style)
    axis.set_yscale("log")
    axis.set_xlabel("layer $d$")
    axis.set_ylabel(r"mean length $\mathbb{E}[M_d]$")


def _spreads(axis: Axes, table: pd.DataFrame) -> None:
    for number, (width, rows) in enumerate(table.groupby("width")):
        axis.scatter(
            rows["beta"], rows["var_log"], s=9, linewidth=0, alpha=0.8,
            marker=MARKERS[number], color=PALETTE[number], label=f"width {width}",
        )  # fmt: skip
    ends = np.array([0.0, table["beta"].max()])
    axis.plot(ends, KAPPA * ends, color="black", linewidth=1.0, label=r"$5\beta$")
    axis.set_xlabel(r"$\beta = \sum_{l \leq d} 1/n_l$")
    axis.set_ylabel(r"$\mathrm{Var}[\log M_d]$")
