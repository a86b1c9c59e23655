"""Input, filter and feature map before and after the step that kills."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from analysis.figures.dying_relu.runs import CIRCLE, CROSS, Runs

SIZE = (6.8, 2.7)  # inches
NAMES = {CIRCLE: "circle", CROSS: "cross"}


def pictures(runs: Runs) -> Figure:
    """One network at the start, and after its first step on the cross."""
    cells = runs.kind("report")
    raw = cells[(cells["scaling"] == "raw") & (cells["clip.bias"] == "mean_of_weights")]
    mine = (raw if len(raw) else cells).sort_values(["data.side", "seed"], ascending=[False, True])
    cell_id, after = str(mine.index[0]), int(mine["seen"].iloc[0])
    labels = runs.labels(cell_id).tolist()
    figure = Figure(figsize=SIZE, layout="constrained")
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


def _filter(axis: Axes, runs: Runs, cell_id: str, step: int, words: str, titled: bool) -> None:
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
