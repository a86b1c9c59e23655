"""Figure of the study `de2020`."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.de2020.cells import (
    CONV,
    DENSE,
    FIXUP,
    GRADIENTS,
    NORMALIZED,
    SKIPINIT,
    STREAM,
    TRAINING,
    UNNORMALIZED,
    UNSCALED,
)
from analysis.figures.style import PALETTE
from analysis.figures.training_runs import best_rates, plot_runs
from analysis.scoring.effects import rows_where
from analysis.scoring.scored_study import Tables

SIZE = (7.2, 5.4)  # inches
WITH, WITHOUT = "batch normalization", "no normalization"
NETWORKS: dict[tuple[str, str], dict[str, Any]] = {
    (DENSE, NORMALIZED): {"color": PALETTE[0], "marker": "o", "label": f"dense, {WITH}"},
    (CONV, NORMALIZED): {"color": PALETTE[1], "marker": "s", "label": f"convolutions, {WITH}"},
    (DENSE, UNNORMALIZED): {"color": PALETTE[0], "marker": "^", "label": f"dense, {WITHOUT}"},
    (CONV, UNNORMALIZED): {"color": PALETTE[1], "marker": "v", "label": f"convolutions, {WITHOUT}"},
}
INITS: dict[str, dict[str, Any]] = {
    UNSCALED: {"color": PALETTE[3], "linestyle": "--", "label": "unscaled branches (He)"},
    SKIPINIT: {"color": PALETTE[0], "linestyle": "-", "label": "SkipInit"},
    FIXUP: {"color": PALETTE[2], "linestyle": ":", "label": "Fixup"},
}


def caption(tables: Tables) -> str:
    """Write the caption."""
    cells, setting = tables["cells"], tables["setting"].set_index(["part", "model"])
    dense, conv = (setting.loc[(GRADIENTS, model)] for model in (DENSE, CONV))
    stream, trained = setting.xs(STREAM).iloc[0], setting.xs(TRAINING).iloc[0]
    side = dense["data.side"]
    rates = rows_where(cells, {"part": TRAINING, "init": UNSCALED})["lr"]
    return (
        f"ReLU networks on images of {side:.0f} x {side:.0f} pixels. (a) Mean square of the "
        "gradient of a random combination of the outputs with respect to the pre-activations of "
        f"each hidden layer but the first, divided by that of the last: {dense['model.depth']:.0f} "
        f"layers, {dense['model.width']:.0f} units or {conv['model.width']:.0f} channels. "
        f"(b, c) Mean square of the residual stream after each block of a pre-activation ResNet of "
        f"{stream['model.depth']:.0f} layers, {stream['model.width']:.0f} channels in the first "
        "stage; vertical lines: transitions between stages. Symbols: mean over "
        f"n = {cells['seed'].nunique()} seeds of {dense['probe.draws']:.0f} (a) or "
        f"{stream['probe.draws']:.0f} (b, c) draws of the weights; bars: standard error over "
        "seeds, mostly smaller than the symbols. Lines: theory `field` on the same images. "
        f"(d) Training loss divided by the loss at chance of pre-activation ResNets of "
        f"{_deepest(cells):.0f} layers without normalization, {trained['model.width']:.0f} "
        f"channels, SGD with momentum. Each init has the learning rate with the smallest final "
        f"loss, of {', '.join(f'{rate:g}' for rate in sorted(rates.unique()))} unscaled, and only "
        f"0.1 for SkipInit and Fixup: mean over n = {cells['seed'].nunique()} seeds; band: their "
        "range. A loss above chance counts as chance."
    )


def _deepest(cells: pd.DataFrame) -> float:
    return float(rows_where(cells, {"part": TRAINING})["depth"].max())


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw gradients, residual streams, and training losses."""
    cells, curves = tables["cells"], tables["curves"]
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    for (model, norm), style in NETWORKS.items():
        rows = rows_where(cells, {"part": GRADIENTS, "model": model, "norm": norm})
        last = rows[rows["layer"] == rows["layer"].max()].set_index("seed")
        relative = {
            name: 2.0 ** (rows[name] - rows["seed"].map(last[name]))
            for name in ("log_gradient", "log_gradient_predicted")
        }
        _draw(axes[0], rows.assign(**relative), "log_gradient", style)
    _draw_streams(axes[1], axes[2], cells)
    best = best_rates(rows_where(cells, {"part": TRAINING}), ["depth", "init"])
    runs = curves.merge(best, on=["depth", "init", "lr"])
    for init, style in INITS.items():
        plot_runs(
            axes[3], runs[(runs["depth"] == _deepest(cells)) & (runs["init"] == init)], **style
        )
    axes[0].set(yscale="log", xlabel="layer", ylabel="mean square gradient / last layer's")
    axes[0].set_ylim(top=1e3 * axes[0].get_ylim()[1])  # space for the legend
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[3].set(ylabel="training loss / chance", ylim=(0.7, 1.02))
    for axis in (axes[0], axes[3]):
        axis.legend(frameon=False, fontsize="small")
    for axis, letter in zip(axes, "abcd", strict=True):
        axis.set_title(f"({letter})", loc="left", fontsize="medium")
        sns.despine(ax=axis)
    return {"de2020": figure}


def _draw_streams(normalized: Axes, unnormalized: Axes, cells: pd.DataFrame) -> None:
    for axis, norm, label in (
        (normalized, NORMALIZED, WITH),
        (unnormalized, UNNORMALIZED, WITHOUT),
    ):
        rows = rows_where(cells, {"part": STREAM, "norm": norm})
        for _, stage in rows.groupby("stage"):
            _draw(axis, stage, "stream", {"color": PALETTE[0], "marker": "o"})
            if stage["layer"].max() < rows["layer"].max():
                axis.axvline(stage["layer"].max() + 0.5, color="0.7", linewidth=0.8)
        axis.set(xlabel="block", ylabel=r"residual stream $E[x^2]$")
        axis.set_title(label, fontsize="medium")
    normalized.set_ylim(bottom=0)
    unnormalized.set_yscale("log")


def _draw(axis: Axes, rows: pd.DataFrame, name: str, style: dict[str, Any]) -> None:
    groups = rows.groupby("layer")
    mean, se = groups[name].mean(), groups[name].sem()
    axis.errorbar(mean.index, mean, yerr=se, linestyle="", markersize=3, linewidth=0.7, **style)
    predicted = groups[f"{name}_predicted"].first()
    axis.plot(predicted.index, predicted, color=style["color"], linewidth=0.9)
