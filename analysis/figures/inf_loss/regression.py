"""The 10-50-1 regression, whose steps are too long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.inf_loss.clipping import CLIPS
from analysis.figures.inf_loss.outcomes import text_in_box
from analysis.figures.inf_loss.parts import cells_of, share
from analysis.figures.sharpness import initial_sharpness
from analysis.figures.study import Headline
from analysis.load import Results

SIZE = (7.0, 3.9)  # inches


def headlines(results: Results, criterion: Mapping[str, Any]) -> Iterator[Headline]:
    """The 10-50-1 network: where it ends in inf, by the learning rate times the curvature."""
    cells = cells_of(results, "regression")
    plain = cells[(cells["clip"].astype(str) == "none") & (cells["train.dtype"] == "float32")]
    x = _lr_times_curvature(results, plain)
    bad, (low, high) = plain["bad_step"].notna().to_numpy(), criterion["stable"]
    below, above = x < low, x > high
    yield Headline(
        f"10-50-1 regression, mse: inf or NaN below lr = {low:g} / lambda_0",
        "never",
        f"{share(int((bad & below).sum()), int(below.sum()))} settings",
        not (bad & below).any(),
    )
    parts = []
    for name in plain["activation"].astype(str).unique():
        mine = above & (plain["activation"].astype(str) == name).to_numpy()
        parts.append(f"{name} {share(int((bad & mine).sum()), int(mine.sum()))}")
    yield Headline(
        f"10-50-1 regression, mse: inf or NaN above lr = {high:g} / lambda_0",
        "always",
        f"{', '.join(parts)} settings",
        bool(bad[above].all()) if above.any() else None,
    )
    usual = plain[(plain["scaling.scale"] == 1) & (plain["data.noise"] < 1)]
    fine = int(usual["bad_step"].isna().sum())
    yield Headline(
        "10-50-1 regression, inputs and targets of size 1",
        "nothing is claimed",
        f"finite in {share(fine, len(usual))} settings",
        None,
    )
    half = cells[cells["train.dtype"] == "float16"]
    start = half[half["at_start"]]
    scales = sorted(start["scaling.scale"].unique())
    yield Headline(
        "10-50-1 regression in float16, torch's default init: inf at step 0",
        "where an output exceeds 256: its square is above 65,504",
        f"{share(len(start), len(half))} settings (inputs of size "
        f"{', '.join(f'{scale:g}' for scale in scales) or 'none'})",
        None,
    )


def _lr_times_curvature(results: Results, cells: pd.DataFrame) -> np.ndarray:
    curvature = initial_sharpness(results.layers)
    return (cells["optim.lr"] * cells["cell_id"].astype(str).map(curvature)).to_numpy(float)


def figure(results: Results) -> Figure:
    """The regression: learning rate against input scale, with each clipping, for both targets."""
    cells = cells_of(results, "regression")
    cells = cells[cells["train.dtype"] == "float32"]
    drawn = Figure(figsize=SIZE, layout="constrained")
    noises = sorted(cells["data.noise"].unique())
    clips = [name for name in CLIPS if name in set(cells["clip"].astype(str))]
    axes = drawn.subplots(len(noises), len(clips), sharex=True, sharey=True, squeeze=False)
    for row, noise in zip(axes, noises, strict=True):
        for axis, clip in zip(row, clips, strict=True):
            mine = cells[(cells["data.noise"] == noise) & (cells["clip"].astype(str) == clip)]
            _panel(axis, mine)
            size = (1 + noise**2) ** 0.5
            axis.set_title(f"{CLIPS[clip]}\ntargets of size {size:.0f}", fontsize="small")
    drawn.supxlabel("learning rate; in each box ReLU left, tanh right", fontsize="small")
    drawn.supylabel("size of the inputs", fontsize="small")
    return drawn


def _panel(axis: Axes, cells: pd.DataFrame) -> None:
    scales, rates = sorted(cells["scaling.scale"].unique()), sorted(cells["optim.lr"].unique())
    for cell in cells.to_dict("records"):
        side = 0.0 if str(cell["activation"]) == "relu" else 0.5
        x, y = rates.index(cell["optim.lr"]) + side, scales.index(cell["scaling.scale"])
        text_in_box(axis, x, y, 0.5, float(cell["bad_step"]))
    for number in range(len(rates) + 1):
        axis.axvline(number, color="0.4", linewidth=0.8)
    axis.set(xlim=(0, len(rates)), ylim=(0, len(scales)))
    axis.set_xticks([n + 0.5 for n in range(len(rates))], [f"{rate:g}" for rate in rates])
    axis.set_yticks([n + 0.5 for n in range(len(scales))], [f"{scale:g}" for scale in scales])
    axis.tick_params(length=0, labelsize=7)
