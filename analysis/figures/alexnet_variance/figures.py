"""Figures of the study `alexnet_variance`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.alexnet_variance.cells import (
    DEPTH,
    FORMULA,
    INIT_2012_FULL,
    LARGE_WEIGHTS,
    NORM_NAMES,
    RESPONSE,
    TRAINING,
)
from analysis.figures.style import PALETTE, THEORY_LINES, panel_columns
from analysis.scoring.effects import rows_where
from analysis.scoring.scored_study import Tables
from analysis.scoring.summary import CELLS

PANEL = (2.4, 1.9)  # inches
OUTPUTS_SIZE, MOMENTS_SIZE, ACCURACY_SIZE = (6.6, 2.7), (5.2, 2.4), (6.8, 2.3)
DEAD_SIZE = (3.6, 2.6)
INITS = ("He", "Xavier", "PyTorch default", "2012", INIT_2012_FULL)
LARGE_INITS = {"U(0, 1)": ("s", PALETTE[1]), "U(-1, 1)": ("o", PALETTE[0])}
MOMENT_STYLES: dict[str, dict[str, Any]] = {
    "He": {"color": PALETTE[0], "marker": "o", "linestyle": "-"},
    "U(-1, 1)": {"color": PALETTE[3], "marker": "s", "linestyle": "--"},
    "U(0, 1)": {"color": PALETTE[2], "marker": "^", "linestyle": ":"},
}
DEPTH_STYLES: dict[str, dict[str, Any]] = {
    "U(-1, 1)": {"color": PALETTE[3], "marker": "s", "linestyle": "--"},
    "He": {"color": PALETTE[0], "marker": "o", "linestyle": "-"},
    "N(0, 0.01²)": {"color": PALETTE[2], "marker": "^", "linestyle": ":"},
}


def caption(tables: Tables) -> str:
    """Write the captions of the figures."""
    cells, setting = tables[CELLS], tables["setting"].iloc[0]
    n = cells["seed"].nunique()
    rates = " and ".join(
        f"{lr:g}" for lr in sorted(rows_where(cells, {"part": TRAINING})["lr"].unique())
    )

    def draws(name: str) -> str:
        return f"{setting.get(f'draws {name}', np.nan):.0f} draws"

    return (
        "Second moment of each layer's pre-activations for one real image. Dots: measured, mean "
        f"over n = {n} seeds; bars, mostly smaller than the dots: their range. Lines: He's "
        "formula and theory.\n\n"
        "Root mean square of the outputs. Left: AlexNets with large uniform weights, by "
        f"normalization; right: plain networks, by depth. Geometric mean over n = {n} "
        f"seeds of {draws(LARGE_WEIGHTS)} ({draws(DEPTH)} at the right); bars: range over seeds. "
        "Sizes above 3e38 (the largest float32) are drawn there.\n\n"
        "Second moment after normalization and ReLU in plain networks of 9 layers before training: "
        f"mean over n = {n} seeds of {draws(TRAINING)}; bars: range over seeds. Line: one half.\n\n"
        "Test accuracy of these networks after training: at the better of the learning rates "
        f"{rates}, mean over n = {n} seeds; in brackets, the smallest and the largest.\n\n"
        "Share of channels that are zero for every image, by layer, in plain ReLU networks with "
        f"He's init, before training: mean over n = {n} seeds of {draws(DEPTH)}; bars: range over "
        f"seeds.{_one_series_note(tables['dead'])}"
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the figures of the page and of the appendix."""
    cells = tables[CELLS]
    return {
        "alexnet_variance": _formula_figure(rows_where(cells, {"part": FORMULA})),
        "alexnet_variance_outputs": _outputs_figure(cells),
        "alexnet_variance_moments": _moments_figure(tables["moments"]),
        "alexnet_variance_accuracy": _accuracy_figure(rows_where(cells, {"part": TRAINING})),
        "alexnet_variance_dead": _dead_figure(tables["dead"]),
    }


def _formula_figure(rows: pd.DataFrame) -> Figure:
    """Draw E[y^2] by layer, a panel per init: measured, He's formula and theory."""
    inits = [init for init in INITS if init in set(rows["init"])] or [""]
    n_columns = panel_columns(len(inits))
    n_rows = -(-len(inits) // n_columns)
    size = (PANEL[0] * n_columns, PANEL[1] * n_rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for axis, init in zip(axes, inits, strict=False):
        _formula_panel(axis, rows[rows["init"] == init])
        axis.set_title(f"init: {init}", fontsize="small")
    for axis in axes[len(inits) :]:
        axis.set_visible(False)
    shown = figure.axes[0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    figure.supylabel(r"second moment $\mathbb{E}[y^2]$", fontsize="small")
    return figure


def _formula_panel(axis: Axes, rows: pd.DataFrame) -> None:
    if rows.empty:
        return
    groups = rows.groupby(["layer", "layer_name"], observed=True)
    names = [name for _, name in groups.groups]
    x = np.arange(len(names))
    mean, low, high = (10 ** getattr(groups["log_forward"], f)().to_numpy(float)
                       for f in ("mean", "min", "max"))  # fmt: skip
    he, theory = (10 ** groups[c].first().to_numpy(float) for c in ("he_forward", "theory_forward"))
    axis.plot(x, he, **{**THEORY_LINES["he"], "label": "He's formula"})
    axis.plot(x, theory, color="black", linewidth=1, label="theory")
    error = [mean - low, high - mean]
    axis.errorbar(x, mean, yerr=error, fmt="o", ms=3.5, color=PALETTE[0], label="measured")
    axis.set_yscale("log")
    axis.minorticks_off()
    axis.set_xticks(x, names, rotation=60, fontsize="x-small")
    axis.tick_params(axis="y", labelsize="x-small")
    sns.despine(ax=axis)


def _outputs_figure(cells: pd.DataFrame) -> Figure:
    figure = Figure(figsize=OUTPUTS_SIZE, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    norms = (*NORM_NAMES.values(), RESPONSE)
    for number, (init, (marker, color)) in enumerate(LARGE_INITS.items()):
        rows = rows_where(cells, {"part": LARGE_WEIGHTS, "init": init})
        places = [(y + 0.2 * number - 0.1, "norm", norm) for y, norm in enumerate(norms)]
        _points(left, rows, places,
                {"marker": marker, "color": color, "label": f"{init} weights"})  # fmt: skip
    left.set_yticks(range(len(norms)), norms, fontsize="small")
    left.set_ylim(len(norms) - 0.5, -0.5)
    left.set_xscale("log")
    left.set_xlabel("outputs (root mean square)", fontsize="small")
    left.grid(axis="x", color="0.9", linewidth=0.6)
    for init, style in DEPTH_STYLES.items():
        groups = rows_where(cells, {"part": DEPTH, "init": init}).groupby("depth")["log_output"]
        mean = groups.mean()
        error = [10**mean - 10 ** groups.min(), 10 ** groups.max() - 10**mean]
        right.errorbar(mean.index, 10**mean, yerr=error, ms=4, lw=1, label=init, **style)
    right.set_yscale("log")
    right.set_xticks([3, 9, 27])
    right.set_xlabel("number of layers", fontsize="small")
    right.set_ylabel("outputs (root mean square)", fontsize="small")
    for axis in (left, right):
        axis.minorticks_off()
        axis.tick_params(labelsize="small")
        sns.despine(ax=axis)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize="x-small")
    return figure


def _points(
    axis: Axes,
    rows: pd.DataFrame,
    places: list[tuple[float, str, str]],
    style: dict[str, Any],
) -> None:
    """Draw the geometric mean and the range over seeds of groups of networks."""
    label = style.pop("label")
    for y, column, value in places:
        sizes = rows.loc[rows[column] == value, "log_output"]
        if len(sizes):
            mean, low, high = 10 ** sizes.mean(), 10 ** sizes.min(), 10 ** sizes.max()
            axis.errorbar(mean, y, xerr=[[mean - low], [high - mean]], ms=5, label=label, **style)
            label = None


def _moments_figure(moments: pd.DataFrame) -> Figure:
    """Draw the second moment after normalization and ReLU by layer, on a linear axis."""
    figure = Figure(figsize=MOMENTS_SIZE, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, norm in zip(axes, ("layer", "batch"), strict=True):
        for number, (init, style) in enumerate(MOMENT_STYLES.items()):
            rows = rows_where(moments, {"norm": NORM_NAMES[norm], "init": init})
            groups = rows.groupby("layer")["value"]
            mean = groups.mean()
            error = [mean - groups.min(), groups.max() - mean]
            axis.errorbar(mean.index + 0.12 * (number - 1), mean, yerr=error, ms=3.5, lw=1,
                          label=f"{init} weights", **style)  # fmt: skip
        axis.axhline(0.5, color="0.4", linewidth=0.8, zorder=0)
        axis.set_title(NORM_NAMES[norm], fontsize="small")
        axis.set_ylim(0, 1)
        axis.set_xlabel("layer", fontsize="small")
        sns.despine(ax=axis)
    axes[0].set_ylabel(r"after ReLU $\mathbb{E}[x^2]$", fontsize="small")
    shown = axes[0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return figure


def _accuracy_figure(rows: pd.DataFrame) -> Figure:
    """Draw the test accuracy by init and normalization."""
    figure = Figure(figsize=ACCURACY_SIZE, layout="constrained")
    axis = figure.subplots()
    norms, inits = list(NORM_NAMES.values()), list(MOMENT_STYLES)
    means = np.full((len(inits), len(norms)), np.nan)
    for (init, norm), runs in rows.groupby(["init", "norm"]):
        by_rate = runs.groupby("lr")["accuracy"]
        best = runs[runs["lr"] == by_rate.mean().idxmax()]["accuracy"]
        x, y = norms.index(str(norm)), inits.index(str(init))
        means[y, x] = best.mean()
        axis.text(x, y, f"{best.mean():.2f} ({best.min():.2f} to {best.max():.2f})", ha="center",
                  va="center", fontsize="x-small",
                  color="black" if best.mean() > 0.5 else "white")  # fmt: skip
    image = axis.imshow(means, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(len(norms)), norms, fontsize="small")
    axis.set_yticks(range(len(inits)), [f"{init} weights" for init in inits], fontsize="small")
    axis.tick_params(length=0)
    bar = figure.colorbar(image, ax=axis, pad=0.02)
    bar.set_label("test accuracy", fontsize="small")
    return figure


def _is_one_series(dead: pd.DataFrame) -> bool:
    """Return True if the networks of all depths agree in the layers that they share.

    The draws of a layer's weights depend on its name only, so a shallow network is the beginning
    of a deep one.
    """
    spread = dead.groupby(["seed", "layer"])["value"].agg(np.ptp)
    return bool((spread < 1e-9).all())


def _one_series_note(dead: pd.DataFrame) -> str:
    """Say which networks the figure of dead channels shows, if one curve stands for all depths."""
    depths = sorted(dead["depth"].unique())
    if len(depths) < 2 or not _is_one_series(dead):
        return ""
    *others, deepest = (f"{depth:.0f}" for depth in depths)
    return (
        f" The curve is that of {deepest} layers; networks of {' and '.join(others)} layers have "
        "the same weights in the layers that they share with it, hence the same values. Dotted "
        "lines: last hidden layer of each network."
    )


def _dead_figure(dead: pd.DataFrame) -> Figure:
    """Draw the share of dead channels by layer, and mark the last hidden layer of each depth."""
    figure = Figure(figsize=DEAD_SIZE, layout="constrained")
    axis = figure.subplots()
    shown = dead
    if _is_one_series(dead):
        shown = dead[dead["depth"] == dead["depth"].max()]
        for depth in sorted(dead["depth"].unique()):
            axis.axvline(depth - 1, color="0.4", linewidth=0.8, linestyle=":", zorder=0)
            axis.annotate(f"{depth:.0f} layers", (depth - 1, 1), xytext=(-2, -2), rotation=90,
                          xycoords=axis.get_xaxis_transform(), textcoords="offset points",
                          ha="right", va="top", fontsize="x-small")  # fmt: skip
    groups_of_depth = shown.groupby("depth")
    for style, (depth, rows) in zip(MOMENT_STYLES.values(), groups_of_depth, strict=False):
        groups = rows.groupby("layer")["value"]
        mean = groups.mean()
        error = [mean - groups.min(), groups.max() - mean]
        axis.errorbar(
            mean.index,
            mean,
            yerr=error,
            ms=3,
            lw=1,
            label=f"{depth:.0f} layers",
            clip_on=False,
            **style,
        )
    axis.set_xlabel("layer", fontsize="small")
    axis.set_ylabel("share of dead channels", fontsize="small")
    axis.set_ylim(0, None)
    if len(groups_of_depth) > 1:
        axis.legend(frameon=False, fontsize="x-small")
    sns.despine(ax=axis)
    return figure
