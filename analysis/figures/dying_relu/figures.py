"""Figures of the study `dying_relu`: one network, remedies, and learning rates that kill.

A learning rate "kills" if one step on the cross makes the feature maps of both images black.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from analysis.figures.dying_relu.cells import CIRCLE, CROSS, INPUTS, REMEDIES, SweepCells
from analysis.figures.dying_relu.claims import killing_thresholds
from analysis.figures.style import PALETTE

NETWORK_SIZE = (6.8, 2.7)  # inches
NAMES = {CIRCLE: "circle", CROSS: "cross"}
REMEDIES_SIZE = (6.8, 2.6)  # inches
STEPS_SIZE = (6.8, 4.9)  # inches
RANGES = {"unit": ("inputs 0 to 1", "o", 0), "raw": ("inputs 0 to 255", "s", 1)}
INITS = {0.0: ("U(0, 1)", "o", 0), -0.1: ("U(-0.1, 0.1)", "s", 1)}


def network_figure(sweep: SweepCells) -> Figure:
    """Draw one network before and after its first step on the cross."""
    cells = sweep.part("report")
    raw = cells[(cells["scaling"] == "raw") & (cells["clip.bias"] == "mean_of_weights")]
    candidates = raw if len(raw) else cells
    candidates = candidates.sort_values(["data.side", "seed"], ascending=[False, True])
    cell_id, cross_step = str(candidates.index[0]), int(candidates["cross_step"].iloc[0])
    labels = sweep.labels(cell_id).tolist()
    figure = Figure(figsize=NETWORK_SIZE, layout="constrained")
    grid = figure.add_gridspec(2, 7, width_ratios=[1, 1, 1.1, 1, 1, 1, 1])
    step_labels = {0: "before", cross_step: "after"}
    for column, label in enumerate((CIRCLE, CROSS)):
        image = labels.index(label)
        axis = figure.add_subplot(grid[:, column])
        pixels = sweep.tensor(cell_id, "conv1", "input", 0, image)
        axis.imshow((pixels / pixels.max()).clamp(0, 1).permute(1, 2, 0).numpy())
        _format_image(axis, f"input:\n{NAMES[label]}")
        axis.set_xlabel(_range_text(pixels), fontsize="x-small")
        brightest = float(sweep.tensor(cell_id, "conv1", "act", 0, image).max())
        for row, (step, step_label) in enumerate(step_labels.items()):
            has_title = row == 0
            feature_map = sweep.tensor(cell_id, "conv1", "act", step, image)[0]
            axis = figure.add_subplot(grid[row, 3 + column])
            _draw_image(axis, feature_map, 0.0, brightest)
            _format_image(axis, f"feature map:\n{NAMES[label]}" * has_title)
            gradient = sweep.tensor(cell_id, "fc1", "input_grad", step, image)
            axis = figure.add_subplot(grid[row, 5 + column])
            side = int(len(gradient) ** 0.5)
            _draw_image(axis, gradient.view(side, side), *_limits(gradient))
            title = f"gradient w.r.t.\nclassifier inputs:\n{NAMES[label]}"
            _format_image(axis, title * has_title)
            if column == 0:
                axis = figure.add_subplot(grid[row, 2])
                _draw_filter(axis, sweep, cell_id, step, step_label, has_title)
    return figure


def _draw_filter(
    axis: Axes, sweep: SweepCells, cell_id: str, step: int, label: str, has_title: bool
) -> None:
    weight = sweep.tensor(cell_id, "conv1", "weight", step, -1)[0]
    stacked = np.full((weight.shape[0] * 4 - 1, 3), np.nan)
    for channel, taps in enumerate(weight.numpy()):
        stacked[4 * channel : 4 * channel + 3] = taps
        corner = (-0.5, 4 * channel - 0.5)
        axis.add_patch(
            Rectangle(corner, 3, 3, fill=False, edgecolor="0.4", linewidth=0.8, clip_on=False)
        )
    axis.imshow(stacked, cmap="gray")
    _format_image(axis, "filter\n(R, G, B)" if has_title else "")
    axis.set_xlabel(_range_text(weight), fontsize="x-small")
    axis.set_ylabel(label, fontsize="small", fontweight="bold")


def _draw_image(axis: Axes, values: Tensor, low: float, high: float) -> None:
    axis.imshow(values.numpy(), cmap="gray", vmin=low, vmax=high if high > low else low + 1)
    axis.set_xlabel(_range_text(values), fontsize="x-small")


def _limits(values: Tensor) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _range_text(values: Tensor) -> str:
    low, high = _limits(values)
    if low == high:
        return f"{low + 0.0:.3g} everywhere"
    return " to ".join(f"{end:.1e}" if abs(end) >= 1e4 else f"{end:.0f}" if abs(end) >= 10
                       else f"{end:.2g}" for end in (low, high))  # fmt: skip


def _format_image(axis: Axes, title: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize="x-small")
    for spine in axis.spines.values():
        spine.set_visible(False)


def remedies_figure(sweep: SweepCells) -> Figure:
    """Draw outcomes: a panel per input range, a row per remedy, a column per learning rate."""
    trained = sweep.part("remedies")
    figure = Figure(figsize=REMEDIES_SIZE, layout="constrained")
    ranges = [name for name in INPUTS if (trained["scaling"] == name).any()]
    axes = figure.subplots(1, len(ranges), sharey=True, squeeze=False)[0]
    remedies = [name for name in REMEDIES.values() if (trained["remedy"] == name).any()]
    for axis, scaling in zip(axes, ranges, strict=True):
        _remedy_panel(axis, sweep, trained[trained["scaling"] == scaling], remedies)
        axis.set_title(f"inputs {INPUTS[scaling]}", fontsize="small")
    axes[0].set_yticks(range(len(remedies)), remedies, fontsize="x-small")
    figure.supxlabel(r"learning rate $\eta$", fontsize="small")
    return figure


def _remedy_panel(axis: Axes, sweep: SweepCells, cells: pd.DataFrame, remedies: list[str]) -> None:
    rates = sorted(cells["optim.lr"].unique())
    for (remedy, rate), rows in cells.groupby(["remedy", "optim.lr"]):
        if remedy not in remedies:
            continue
        x, y = rates.index(rate), remedies.index(str(remedy))
        dead, both_correct = rows["dead_at_end"].mean(), int(rows["both_correct"].sum())
        axis.add_patch(
            Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=str(1 - 0.8 * dead), edgecolor="0.6",
                      linewidth=0.4)
        )  # fmt: skip
        if both_correct == len(rows):
            axis.add_patch(
                Rectangle((x - 0.44, y - 0.44), 0.88, 0.88, fill=False, edgecolor=PALETTE[0],
                          linewidth=1.8, zorder=3)
            )  # fmt: skip
        axis.text(x, y, str(both_correct), ha="center", va="center", fontsize="x-small",
                  color="white" if dead > 0.5 else "black", zorder=4)  # fmt: skip
    for remedy in remedies:
        rows = cells[cells["remedy"] == remedy]
        predicted = rows[(rows["init.a"] == 0) & (rows["activation"] == "relu")]
        predicted = predicted[predicted["model"] != "linear"]
        if len(predicted) and len(rates) > 1:
            position = _position(rates, sweep.killing_rate(str(predicted.index[0])))
            if position < len(rates) - 0.5:
                axis.plot(position, remedies.index(remedy) + 0.36, marker="^", markersize=5,
                          zorder=5, color=PALETTE[3])  # fmt: skip
    axis.set_xlim(-0.5, len(rates) - 0.5)
    axis.set_ylim(len(remedies) - 0.5, -0.5)
    axis.set_xticks(range(len(rates)), [_rate_label(rate) for rate in rates], fontsize="x-small")
    axis.tick_params(length=0)


def _position(rates: list[float], rate: float) -> float:
    """Return the position of a learning rate on an axis of geometrically spaced rates."""
    step = math.log(rates[1] / rates[0])
    return math.log(rate / rates[0]) / step


def _rate_label(rate: float) -> str:
    power = math.log10(rate)
    return f"$10^{{{power:.0f}}}$" if abs(power - round(power)) < 1e-6 else f"{rate:g}"


def steps_figure(sweep: SweepCells) -> Figure:
    """Draw rates that make maps black, ratios of curvatures, and first steps near 2 / lambda."""
    figure = Figure(figsize=STEPS_SIZE, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[1, 0.9])
    axes = [figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])]
    axes.append(figure.add_subplot(grid[1, :]))
    _threshold_panel(axes[0], sweep)
    _ratio_panel(axes[1], sweep)
    _descent_panel(axes[2], sweep)
    for axis, name in zip(axes, "ABC", strict=True):
        axis.set_title(name, loc="left", fontweight="bold", fontsize="medium")
        sns.despine(ax=axis)
    return figure


def _threshold_panel(axis: Axes, sweep: SweepCells) -> None:
    thresholds = killing_thresholds(sweep, sweep.part("boundary"), ["scaling", "data.side", "seed"])
    for scaling, (label, marker, color_index) in RANGES.items():
        rows = thresholds[thresholds["scaling"] == scaling]
        if rows.empty:
            continue
        x = rows["data.side"] * (1 + 0.06 * (rows["seed"] - rows["seed"].mean()))
        within = np.isfinite(rows["smallest_dead"]) & (rows["largest_alive"] > 0)
        axis.vlines(x[within], rows["largest_alive"][within], rows["smallest_dead"][within],
                    color=PALETTE[color_index], linewidth=2.5)  # fmt: skip
        axis.plot(x[within], rows["smallest_dead"][within], linestyle="", marker=marker,
        markersize=3,
                  color=PALETTE[color_index])  # fmt: skip
        line = rows.drop_duplicates("data.side").sort_values("data.side")
        axis.plot(line["data.side"], line["predicted"], color=PALETTE[color_index], linewidth=1,
                  marker=marker, markersize=0, label=label)  # fmt: skip
        axis.annotate(label, (line["data.side"].iloc[0], line["predicted"].iloc[0]),
                      xytext=(14, 0), textcoords="offset points", fontsize="x-small")  # fmt: skip
    _format_side_axis(axis, thresholds["data.side"])
    axis.set_yscale("log")
    axis.set_ylabel(r"smallest $\eta$ that kills in one step", fontsize="small")


def _ratio_panel(axis: Axes, sweep: SweepCells) -> None:
    cells = sweep.part("curvature")
    measured = sweep.curvatures(cells)
    ratio = (measured["filter"] / measured["linear"]).groupby("cell_id", observed=True)
    for start, (label, marker, color_index) in INITS.items():
        rows = cells[cells["init.a"] == start].sort_values("data.side")
        if rows.empty:
            continue
        low, middle, high = (ratio.quantile(q).reindex(rows.index) for q in (0.25, 0.5, 0.75))
        axis.errorbar(
            rows["data.side"], middle, yerr=[middle - low, high - middle], linestyle="",
            marker=marker, markersize=4, color=PALETTE[color_index], label=label,
        )  # fmt: skip
        predicted = [sweep.theory(str(name)).curvature_ratio() for name in rows.index]
        linestyle = "-" if start == 0 else "--"
        axis.plot(
            rows["data.side"], predicted, color=PALETTE[color_index], linewidth=1,
            linestyle=linestyle,
        )  # fmt: skip
    _format_side_axis(axis, cells["data.side"])
    axis.set_yscale("log")
    axis.set_ylabel(r"$\lambda_\mathrm{filter}\,/\,\lambda_\mathrm{linear}$", fontsize="small")
    axis.legend(frameon=False, fontsize="x-small", loc="upper left")


def _format_side_axis(axis: Axes, sides: pd.Series) -> None:
    values = sorted(int(side) for side in sides.unique())
    axis.set_xscale("log")
    axis.set_xticks(values, [str(side) for side in values])
    axis.minorticks_off()
    axis.set_xlabel("side of the images (pixels)", fontsize="small")


def _descent_panel(axis: Axes, sweep: SweepCells) -> None:
    cells = sweep.part("descent")
    rises = _rises(sweep, cells)
    layers = sweep.curvatures(cells).droplevel("draw")
    styles = {
        "map black": {"marker": "x", "color": "black", "s": 16, "linewidth": 1.0},
        "alive, loss lower": {"marker": "o", "color": PALETTE[0], "s": 14},
        "alive, loss higher": {"marker": "s", "color": PALETTE[1], "s": 16},
    }
    ticks = []
    shown: set[str] = set()
    groups = cells.assign(negative_factor=-cells["factor"]).groupby(
        ["negative_factor", "data.side", "seed"]
    )
    for number, ((negative_factor, side, seed), rows) in enumerate(groups):
        factor = -negative_factor
        outcome = np.where(rows["dead"], "map black", np.where(
            rises.reindex(rows.index), "alive, loss higher", "alive, loss lower"))  # fmt: skip
        shown |= set(outcome)
        for name, style in styles.items():
            mask = outcome == name
            axis.scatter(rows["optim.lr"][mask], [number] * int(mask.sum()), **style)
        cell_id = str(rows.index[0])
        for layer, linestyle, scale in (("filter", "--", factor), ("linear", ":", 1.0)):
            x = 2 / (float(layers.loc[cell_id, layer]) * scale)
            axis.plot([x, x], [number - 0.45, number + 0.45], color="0.35", linestyle=linestyle,
                      linewidth=1.4)  # fmt: skip
        rate = sweep.killing_rate(cell_id)
        axis.plot(rate, number + 0.33, marker="^", markersize=4, linestyle="", color=PALETTE[3])
        shrunk = "" if factor == 1 else f", gradient x {factor:g}"
        ticks.append(f"side {side}{shrunk}, seed {seed}")
    styles = {name: style for name, style in styles.items() if name in shown}
    axis.set_yticks(range(len(ticks)), ticks, fontsize="x-small")
    axis.set_ylim(len(ticks) - 0.4, -0.6)
    axis.set_xscale("log")
    axis.set_xlabel(r"learning rate $\eta$", fontsize="small")
    handles = [Line2D([], [], linestyle="", marker=style["marker"], color=style["color"],
                      markersize=4, label=name) for name, style in styles.items()]  # fmt: skip
    handles += [
        Line2D([], [], color="0.35", linestyle="--", label=r"$2/\lambda$ filter"),
        Line2D([], [], color="0.35", linestyle=":", label=r"$2/\lambda$ linear layer"),
        Line2D([], [], linestyle="", marker="^", markersize=4, color=PALETTE[3],
               label="predicted to kill"),
    ]  # fmt: skip
    axis.legend(handles=handles, frameon=False, fontsize="x-small", loc="center left",
                bbox_to_anchor=(1.0, 0.5))  # fmt: skip


def _rises(sweep: SweepCells, cells: pd.DataFrame) -> pd.Series:
    """Return, for each cell, True if the loss is higher after the first step than before it."""
    curves = sweep.results.curves
    rows = curves[curves["cell_id"].isin(cells.index) & (curves["metric"] == "train_loss")]
    early = rows[rows["step"] <= 1].pivot_table(
        index="cell_id", columns="step", values="value", observed=True
    )
    return early[1] > early[0]
