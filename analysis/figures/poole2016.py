"""Study `poole2016`: length and correlation of signals in wide tanh networks (Figs 1 and 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.query import select
from analysis.figures.style import PALETTE
from analysis.load import Results
from analysis.scoring.effects import per_seed
from analysis.scoring.scored_study import ScoredStudy, Tables
from analysis.scoring.summary import CELLS
from fanin.errors import FaninError
from fanin.theory.depth_scales import depth_scales
from fanin.theory.gaussian_pairs import pair_expectations

SIZE = (7.2, 3.2)  # inches
MARKERS = ("o", "s", "^")
STARTS = ["scaling.scale", "scaling.shift"]
LAW = pair_expectations(torch.tanh)
Q_LAYERS, C_LAYERS = 4, 20  # layers after which q and c have converged, as the paper claims
DESIGN = ["gain", "start", "layer"]


def next_layer(
    q: np.ndarray, c: np.ndarray, gain: np.ndarray | float, bias_var: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a layer's squared length and correlation from those of the previous layer.

    These are the length and correlation maps of Poole et al. 2016, eqs 3 to 5.

    Parameters
    ----------
    q
        Squared length of the pre-activations, the same for both inputs of a pair.
    c
        Correlation of the pre-activations of a pair of inputs.
    gain, bias_var
        sigma_w and sigma_b^2.
    """
    var = torch.from_numpy(q)
    products = LAW.covariance(
        (torch.from_numpy(c) * var)[:, None, None], var[:, None], var[:, None]
    )
    next_q = gain**2 * LAW.second_moment(var).numpy() + bias_var
    return next_q, (gain**2 * products[:, 0, 0].numpy() + bias_var) / next_q


def map_fit(cells: pd.DataFrame) -> float:
    """Return the share of the variance of c, over all layers but the first, that the map explains.

    The share is 0 if c does not vary.
    """
    rows = cells[cells["layer"] > 1]
    total = float(((rows["c"] - rows["c"].mean()) ** 2).sum())
    return 1 - float(((rows["c"] - rows["c_map"]) ** 2).sum()) / total if total else 0.0


def _phase_difference(cells: pd.DataFrame) -> float:
    last = cells[cells["layer"] == cells["layer"].max()]
    ordered = last["chi_1"] < 1
    return float(last.loc[ordered, "c"].mean() - last.loc[~ordered, "c"].mean())


def _q_remaining(cells: pd.DataFrame) -> float:
    """Return the deviation of log q from log q* after `Q_LAYERS` layers, relative to layer 1's."""
    deviation = (cells["q"] / cells["q_star"]).map(np.log).abs()
    first, last = (float(deviation[cells["layer"] == layer].mean()) for layer in (1, Q_LAYERS))
    return last / first if first else 1.0


def c_remaining(cells: pd.DataFrame, ordered: bool) -> float:
    """Return the deviation of c from c* after `C_LAYERS` layers, relative to that after layer 1.

    c is first averaged over the starts of a gain that begin on the same side of c*, because the
    absolute deviation of a noisy c from its own limit is not 0. The larger of the deviations after
    `C_LAYERS` and after all layers counts, so that a c that only crosses c* has not converged. The
    deviation after layer 1 is the smaller one of the seed's own and the map's, which begins at the
    mean c of all seeds: an outcome that does not depend on the start would change it.

    Parameters
    ----------
    cells
        Networks of one seed.
    ordered
        True for the gains of the ordered phase, False for those of the chaotic phase.
    """
    rows = cells[(cells["chi_1"] < 1) == ordered].set_index(["gain", "start"])
    at_1 = rows[rows["layer"] == 1]
    first, own = (at_1[name] - at_1["c_star"] for name in ("c_map", "c"))
    sides = [first.index.get_level_values("gain"), np.sign(first)]
    deviations = []
    for layer in (C_LAYERS, rows["layer"].max()):
        last = rows[rows["layer"] == layer]
        means = (last["c"] - last["c_star"]).groupby(sides).transform("mean")
        deviations.append(float(means.abs().mean()))
    smaller = min(float(values.abs().mean()) for values in (first, own))
    return max(deviations) / smaller if smaller else 1.0


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return q and c by seed, gain, start and layer, and the maps' predictions."""
    if results.layers.empty:
        raise FaninError(f"{results.folder.root}: no layer has been measured yet; run the sweep")
    about = results.cells[["cell_id", "seed", "init.gain", *STARTS]]
    rows = select(results.layers, image=-1).merge(about)
    rows = rows[(rows["layer"] > 0) & (rows["layer"] < rows["layer"].max())]
    rows = rows[rows["quantity"].isin(["preact_m2", "input_correlation"])]
    keys = ["seed", "init.gain", *STARTS, "layer"]
    means = rows.groupby([*keys, "quantity"], observed=True)["value"].mean().unstack("quantity")
    table = means.reset_index().rename(
        columns={"init.gain": "gain", "preact_m2": "q", "input_correlation": "c"}
    )
    table["start"] = table.groupby(STARTS).ngroup()
    bias_var = float(results.cells["init.bias.std"].iloc[0]) ** 2
    table = table.drop(columns=STARTS).merge(_maps(table, bias_var), on=DESIGN)
    columns = ["model.width", "probe.draws", "init.bias.std"]
    setting = results.cells[columns].iloc[:1].astype(float).reset_index(drop=True)
    return {CELLS: table, "setting": setting}


def _maps(table: pd.DataFrame, bias_var: float) -> pd.DataFrame:
    """Apply the maps repeatedly to the mean of the first layer of each start; add fixed points."""
    first = table[table["layer"] == 1].groupby(["gain", "start"])[["q", "c"]].mean().reset_index()
    gain, q, c = (first[name].to_numpy(float, copy=True) for name in ("gain", "q", "c"))
    frames = []
    for layer in sorted(table["layer"].unique()):
        frames.append(first[["gain", "start"]].assign(layer=layer, q_map=q, c_map=c))
        q, c = next_layer(q, c, gain, bias_var)
    maps = pd.concat(frames, ignore_index=True)
    scales = {g: depth_scales(torch.tanh, g**2, bias_var) for g in np.unique(gain)}
    for name in ("q_star", "c_star", "chi_1"):
        maps[name] = maps["gain"].map({g: getattr(scale, name) for g, scale in scales.items()})
    return maps


def caption(tables: Tables) -> str:
    """Write the caption."""
    cells, setting = tables[CELLS], tables["setting"].iloc[0]
    return (
        f"Tanh networks, {cells['layer'].max():.0f} layers of width {setting['model.width']:.0f}, "
        f"sigma_b = {setting['init.bias.std']:g}, two Gaussian images of 784 pixels with "
        f"{cells['start'].nunique()} combinations of length and correlation. Left: second moment q "
        "of the pre-activations (squared length); right: correlation c of the pre-activations of "
        f"the two images. Symbols: mean over n = {cells['seed'].nunique()} seeds of "
        f"{setting['probe.draws']:.0f} draws of the weights; bars: standard error over seeds. "
        "Lines: the paper's maps, iterated from the measured first layer."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw length and correlation by layer."""
    cells = tables[CELLS]
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, 2)
    for number, (gain, rows) in enumerate(cells.groupby("gain")):
        style = {"color": PALETTE[number], "marker": MARKERS[number % len(MARKERS)]}
        for axis, name in zip(axes, ("q", "c"), strict=True):
            _draw(axis, rows, name, style, f"$\\sigma_w = {gain:g}$")
    axes[0].set_yscale("log")
    axes[0].set_ylabel("squared length $q$")
    axes[1].set_ylabel("correlation $c$")
    for axis in axes:
        axis.set_xlabel("layer")
        sns.despine(ax=axis)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return {"poole2016": figure}


def _draw(axis: Axes, rows: pd.DataFrame, name: str, style: dict[str, Any], label: str) -> None:
    for number, (_, start) in enumerate(rows.groupby("start")):
        groups = start.groupby("layer")
        mean, se = groups[name].mean(), groups[name].sem()
        axis.errorbar(mean.index, mean, yerr=se, linestyle="", markersize=2.5, linewidth=0.7,
                      label=None if number else label, **style)  # fmt: skip
        axis.plot(mean.index, groups[f"{name}_map"].first(), color=style["color"], linewidth=0.9)


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("q", "c"),
    effects={
        "map_fit": per_seed(map_fit),
        "phase_difference": per_seed(_phase_difference),
        "q_remaining": per_seed(_q_remaining),
        "c_remaining_ordered": per_seed(lambda cells: c_remaining(cells, ordered=True)),
        "c_remaining_chaotic": per_seed(lambda cells: c_remaining(cells, ordered=False)),
    },
    figures=figures,
    caption=caption,
)
