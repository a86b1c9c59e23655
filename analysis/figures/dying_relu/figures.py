"""Figures: the network before and after its first step, remedies by rate, rates that kill."""

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

PICTURES_SIZE = (6.8, 2.7)  # inches
NAMES = {CIRCLE: "circle", CROSS: "cross"}
REMEDIES_SIZE = (6.8, 2.6)  # inches
STEPS_SIZE = (6.8, 4.9)  # inches
RANGES = {"unit": ("inputs 0 to 1", "o", 0), "raw": ("inputs 0 to 255", "s", 1)}
INITS = {0.0: ("U(0, 1)", "o", 0), -0.1: ("U(-0.1, 0.1)", "s", 1)}


def pictures(runs: SweepCells) -> Figure:
    """One network at the start, and after its first step on the cross."""
    cells = runs.part("report")
    raw = cells[(cells["scaling"] == "raw") & (cells["clip.bias"] == "mean_of_weights")]
    mine = (raw if len(raw) else cells).sort_values(["data.side", "seed"], ascending=[False, True])
    cell_id, after = str(mine.index[0]), int(mine["cross_step"].iloc[0])
    labels = runs.labels(cell_id).tolist()
    figure = Figure(figsize=PICTURES_SIZE, layout="constrained")
    grid = figure.add_gridspec(2, 7, width_ratios=[1, 1, 1.1, 1, 1, 1, 1])
    rows = {0: "before", after: "after"}
    for column, label in enumerate((CIRCLE, CROSS)):
        image = labels.index(label)
        axis = figure.add_subplot(grid[:, column])
        pixels = runs.values(cell_id, "conv1", "input", 0, image)
        axis.imshow((pixels / pixels.max()).clamp(0, 1).permute(1, 2, 0).numpy())
        _bare(axis, f"input:\n{NAMES[label]}")
        axis.set_xlabel(_ends(pixels), fontsize="x-small")
        brightest = float(runs.values(cell_id, "conv1", "act", 0, image).max())
        for row, (step, words) in enumerate(rows.items()):
            made = runs.values(cell_id, "conv1", "act", step, image)[0]
            axis = figure.add_subplot(grid[row, 3 + column])
            _grey(axis, made, 0.0, brightest)
            _bare(axis, f"feature map:\n{NAMES[label]}" if row == 0 else "")
            received = runs.values(cell_id, "fc1", "input_grad", step, image)
            beside = figure.add_subplot(grid[row, 5 + column])
            side = int(len(received) ** 0.5)
            _grey(beside, received.view(side, side), *_span(received))
            _bare(beside, f"gradient of the\nclassifier's inputs:\n{NAMES[label]}" * (row == 0))
            if column == 0:
                _filter(figure.add_subplot(grid[row, 2]), runs, cell_id, step, words, row == 0)
    return figure


def _filter(axis: Axes, runs: SweepCells, cell_id: str, step: int, words: str, titled: bool) ->
None:
    weight = runs.values(cell_id, "conv1", "weight", step, -1)[0]
    stacked = np.full((weight.shape[0] * 4 - 1, 3), np.nan)
    for channel, taps in enumerate(weight.numpy()):
        stacked[4 * channel : 4 * channel + 3] = taps
        corner = (-0.5, 4 * channel - 0.5)
        axis.add_patch(
            Rectangle(corner, 3, 3, fill=False, edgecolor="0.4", linewidth=0.8, clip_on=False)
        )
    axis.imshow(stacked, cmap="gray")
    _bare(axis, "filter\n(R, G, B)" if titled else "")
    axis.set_xlabel(_ends(weight), fontsize="x-small")
    axis.set_ylabel(words, fontsize="small", fontweight="bold")


def _grey(axis: Axes, values: Tensor, low: float, high: float) -> None:
    axis.imshow(values.numpy(), cmap="gray", vmin=low, vmax=high if high > low else low + 1)
    axis.set_xlabel(_ends(values), fontsize="x-small")


def _span(values: Tensor) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _ends(values: Tensor) -> str:
    low, high = _span(values)
    if low == high:
        return f"{low + 0.0:.3g} everywhere"
    return " to ".join(f"{end:.1e}" if abs(end) >= 1e4 else f"{end:.0f}" if abs(end) >= 10
                       else f"{end:.2g}" for end in (low, high))  # fmt: skip


def _bare(axis: Axes, title: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize="x-small")
    for spine in axis.spines.values():
        spine.set_visible(False)


def remedies(runs: SweepCells) -> Figure:
    """A panel an input range, a row a remedy, a column a learning rate."""
    trained = runs.part("remedies")
    figure = Figure(figsize=REMEDIES_SIZE, layout="constrained")
    ranges = [name for name in INPUTS if (trained["scaling"] == name).any()]
    axes = figure.subplots(1, len(ranges), sharey=True, squeeze=False)[0]
    rows = [name for name in REMEDIES.values() if (trained["remedy"] == name).any()]
    for axis, scaling in zip(axes, ranges, strict=True):
        _panel(axis, runs, trained[trained["scaling"] == scaling], rows)
        axis.set_title(f"inputs {INPUTS[scaling]}", fontsize="small")
    axes[0].set_yticks(range(len(rows)), rows, fontsize="x-small")
    figure.supxlabel(r"learning rate $\eta$", fontsize="small")
    return figure


def _panel(axis: Axes, runs: SweepCells, cells: pd.DataFrame, rows: list[str]) -> None:
    rates = sorted(cells["optim.lr"].unique())
    for (remedy, rate), mine in cells.groupby(["remedy", "optim.lr"]):
        if remedy not in rows:
            continue
        x, y = rates.index(rate), rows.index(str(remedy))
        dead, both_correct = mine["dead_at_end"].mean(), int(mine["both_correct"].sum())
        axis.add_patch(
            Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=str(1 - 0.8 * dead), edgecolor="0.6",
                      linewidth=0.4)
        )  # fmt: skip
        if both_correct == len(mine):
            axis.add_patch(
                Rectangle((x - 0.44, y - 0.44), 0.88, 0.88, fill=False, edgecolor=PALETTE[0],
                          linewidth=1.8, zorder=3)
            )  # fmt: skip
        axis.text(x, y, str(both_correct), ha="center", va="center", fontsize="x-small",
                  color="white" if dead > 0.5 else "black", zorder=4)  # fmt: skip
    for remedy in rows:
        mine = cells[cells["remedy"] == remedy]
        predicted = mine[(mine["init.a"] == 0) & (mine["activation"] == "relu")]
        predicted = predicted[predicted["model"] != "linear"]
        if len(predicted) and len(rates) > 1:
            at = _place(rates, runs.killing_rate(str(predicted.index[0])))
            if at < len(rates) - 0.5:
                axis.plot(at, rows.index(remedy) + 0.36, marker="^", markersize=5, zorder=5,
                          color=PALETTE[3])  # fmt: skip
    axis.set_xlim(-0.5, len(rates) - 0.5)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xticks(range(len(rates)), [_power(rate) for rate in rates], fontsize="x-small")
    axis.tick_params(length=0)


def _place(rates: list[float], rate: float) -> float:
    """Position of a rate on an axis that numbers the rates, a factor apart."""
    step = math.log(rates[1] / rates[0])
    return math.log(rate / rates[0]) / step


def _power(rate: float) -> str:
    power = math.log10(rate)
    return f"$10^{{{power:.0f}}}$" if abs(power - round(power)) < 1e-6 else f"{rate:g}"


def steps(runs: SweepCells) -> Figure:
    """Three panels: rates that kill, ratio of curvatures, gradient descent around 2 / lambda."""
    figure = Figure(figsize=STEPS_SIZE, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[1, 0.9])
    axes = [figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])]
    axes.append(figure.add_subplot(grid[1, :]))
    _kills(axes[0], runs)
    _ratios(axes[1], runs)
    _descent(axes[2], runs)
    for axis, name in zip(axes, "ABC", strict=True):
        axis.set_title(name, loc="left", fontweight="bold", fontsize="medium")
        sns.despine(ax=axis)
    return figure


def _kills(axis: Axes, runs: SweepCells) -> None:
    found = killing_thresholds(runs, runs.part("boundary"), ["scaling", "data.side", "seed"])
    for scaling, (words, marker, colour) in RANGES.items():
        mine = found[found["scaling"] == scaling]
        if mine.empty:
            continue
        x = mine["data.side"] * (1 + 0.06 * (mine["seed"] - mine["seed"].mean()))
        within = np.isfinite(mine["smallest_dead"]) & (mine["largest_alive"] > 0)
        axis.vlines(x[within], mine["largest_alive"][within], mine["smallest_dead"][within],
                    color=PALETTE[colour], linewidth=2.5)  # fmt: skip
        axis.plot(x[within], mine["smallest_dead"][within], linestyle="", marker=marker,
        markersize=3,
                  color=PALETTE[colour])  # fmt: skip
        line = mine.drop_duplicates("data.side").sort_values("data.side")
        axis.plot(line["data.side"], line["predicted"], color=PALETTE[colour], linewidth=1,
                  marker=marker, markersize=0, label=words)  # fmt: skip
        axis.annotate(words, (line["data.side"].iloc[0], line["predicted"].iloc[0]),
                      xytext=(14, 0), textcoords="offset points", fontsize="x-small")  # fmt: skip
    _sides(axis, found["data.side"])
    axis.set_yscale("log")
    axis.set_ylabel(r"$\eta$ that smallest_dead in one step", fontsize="small")


def _ratios(axis: Axes, runs: SweepCells) -> None:
    cells = runs.part("curvature")
    measured = runs.curvatures(cells)
    ratio = (measured["filter"] / measured["linear"]).groupby("cell_id", observed=True)
    for start, (words, marker, colour) in INITS.items():
        mine = cells[cells["init.a"] == start].sort_values("data.side")
        if mine.empty:
            continue
        low, middle, high = (ratio.quantile(q).reindex(mine.index) for q in (0.25, 0.5, 0.75))
        axis.errorbar(
            mine["data.side"], middle, yerr=[middle - low, high - middle], linestyle="",
            marker=marker, markersize=4, color=PALETTE[colour], label=words,
        )  # fmt: skip
        told = [runs.theory(str(name)).curvature_ratio() for name in mine.index]
        style = "-" if start == 0 else "--"
        axis.plot(mine["data.side"], told, color=PALETTE[colour], linewidth=1, linestyle=style)
    _sides(axis, cells["data.side"])
    axis.set_yscale("log")
    axis.set_ylabel(r"$\lambda_\mathrm{filter}\,/\,\lambda_\mathrm{linear}$", fontsize="small")
    axis.legend(frameon=False, fontsize="x-small", loc="upper left")


def _sides(axis: Axes, sides: pd.Series) -> None:
    values = sorted(int(side) for side in sides.unique())
    axis.set_xscale("log")
    axis.set_xticks(values, [str(side) for side in values])
    axis.minorticks_off()
    axis.set_xlabel("side of the images (pixels)", fontsize="small")


def _descent(axis: Axes, runs: SweepCells) -> None:
    cells = runs.part("descent")
    rises = _rises(runs, cells)
    layers = runs.curvatures(cells).droplevel("draw")
    styles = {
        "map black": {"marker": "x", "color": "black", "s": 16, "linewidth": 1.0},
        "alive, loss lower": {"marker": "o", "color": PALETTE[0], "s": 14},
        "alive, loss higher": {"marker": "s", "color": PALETTE[1], "s": 16},
    }
    ticks = []
    cross_step: set[str] = set()
    groups = cells.assign(shrunk=-cells["factor"]).groupby(["shrunk", "data.side", "seed"])
    for number, ((shrink, side, seed), mine) in enumerate(groups):
        factor = -shrink
        fate = np.where(mine["dead"], "map black", np.where(
            rises.reindex(mine.index), "alive, loss higher", "alive, loss lower"))  # fmt: skip
        cross_step |= set(fate)
        for name, style in styles.items():
            chosen = fate == name
            axis.scatter(mine["optim.lr"][chosen], [number] * int(chosen.sum()), **style)
        one = str(mine.index[0])
        for layer, style, scale in (("filter", "--", factor), ("linear", ":", 1.0)):
            at = 2 / (float(layers.loc[one, layer]) * scale)
            axis.plot([at, at], [number - 0.45, number + 0.45], color="0.35", linestyle=style,
                      linewidth=1.4)  # fmt: skip
        axis.plot(runs.killing_rate(one), number + 0.33, marker="^", markersize=4, linestyle="",
                  color=PALETTE[3])  # fmt: skip
        shrunk = "" if factor == 1 else f", gradient x {factor:g}"
        ticks.append(f"side {side}{shrunk}, seed {seed}")
    styles = {name: style for name, style in styles.items() if name in cross_step}
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


def _rises(runs: SweepCells, cells: pd.DataFrame) -> pd.Series:
    """Return True if the loss is higher after the first step than before it."""
    curves = runs.results.curves
    mine = curves[curves["cell_id"].isin(cells.index) & (curves["metric"] == "train_loss")]
    early = mine[mine["step"] <= 1].pivot_table(
        index="cell_id", columns="step", values="value", observed=True
    )
    return early[1] > early[0]
