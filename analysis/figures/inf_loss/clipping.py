"""Gradient clipping, bad data, and the regression whose steps are too long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.inf_loss.fates import text_in_box
from analysis.figures.inf_loss.parts import cells_of, share
from analysis.figures.study import Headline
from analysis.load import Results
from experiments.cell import prepared
from experiments.config.schema import build_cell
from experiments.sweep.store.frozen import read_frozen
from experiments.training.batches import Batches

SIZE = (7.0, 3.9)  # inches
CLIPS = {"none": "no clipping", "norm": "gradient norm <= 1", "value": "gradient entries <= 1"}
# What a setting is, clipping aside.
SETTING = [
    *("model", "model.depth", "model.width", "activation", "init", "train.dtype", "train.steps"),
    *("scaling", "scaling.scale", "optim.lr", "data.corrupt.kind", "data.corrupt.share"),
    *("data.noise", "loss", "seed"),
]


def by_clip(results: Results) -> pd.DataFrame:
    """Settings that were run with each clipping: a row each, `none`, `norm`, `value` (bad step)."""
    parts = [cells_of(results, part) for part in ("fates", "clipped", "bad data", "regression")]
    cells = pd.concat(parts, ignore_index=True)
    # As objects: of strings, an absent value would stay absent, and its row be dropped.
    keys = [cells[key].astype(object).map(str) for key in SETTING]
    groups = cells.groupby([*keys, cells["clip"].astype(str)])["bad_step"]
    ran = groups.size().unstack().reindex(columns=list(CLIPS))
    return groups.min().unstack().reindex(columns=list(CLIPS))[ran.notna().all(axis=1)]


def clip_headlines(table: pd.DataFrame) -> Iterator[Headline]:
    """What clipping does to settings that fail at step 0, and to those that fail later."""
    start, late = table[table["none"] == 0], table[table["none"] > 0]
    spoilt = late.index.get_level_values("data.corrupt.kind") == "missing"
    spoilt &= late.index.get_level_values("data.corrupt.share").astype(float) > 0
    never = {
        "the loss is inf or NaN at step 0": (start, "the loss comes before the gradient"),
        "a later batch holds a missing value": (late[spoilt], "the loss comes before the gradient"),
    }
    for where, (mine, why) in never.items():
        same = (mine["norm"] == mine["none"]) & (mine["value"] == mine["none"])
        yield Headline(
            f"clipping, where {where}",
            f"can't help: {why}",
            f"the same step with either clip in {share(int(same.sum()), len(same))} settings",
            bool(same.all()) if len(mine) else None,
        )
    longer = late[~spoilt]
    saved = {name: int(longer[name].isna().sum()) for name in ("norm", "value")}
    yield Headline(
        "clipping, where a step too long makes it so later",
        "can help",
        f"finite to the end with clip=norm in {share(saved['norm'], len(longer))} settings, "
        f"with clip=value in {share(saved['value'], len(longer))}",
        bool(max(saved.values()) > 0) if len(longer) else None,
    )


def first_spoilt_step(config: Mapping[str, Any]) -> int | None:
    """The first step whose batch has a value that is no number, by the order of the batches."""
    cell = build_cell(config)
    data, scaling = prepared(cell, torch.device("cpu"))
    spoilt = ~scaling.apply(data.train.x).isfinite().flatten(1).all(1)
    size = cell.train.batch_of(len(data.train))
    batches = Batches(len(data.train), size, cell.seed_data)
    steps = range(cell.train.total_steps(len(data.train)))
    return next((step for step in steps if bool(spoilt[batches.at(step)].any())), None)


def data_headlines(results: Results) -> Iterator[Headline]:
    """Missing values and outliers: when they show, foretold from the order of the batches."""
    cells, frozen = cells_of(results, "bad data"), read_frozen(results.folder)
    plain = cells[cells["clip"].astype(str) == "none"]
    for scaling in plain["scaling"].astype(str).unique():
        mine = plain[plain["scaling"].astype(str) == scaling]
        missing = mine[mine["data.corrupt.kind"].astype(str) == "missing"]
        told = [first_spoilt_step(frozen[str(cell)]["config"]) for cell in missing["cell_id"]]
        steps = missing["bad_step"].tolist()
        agree = [t == s or (t is None and s != s) for t, s in zip(told, steps, strict=True)]
        shown = ", ".join("never" if s != s else f"{s:.0f}" for s in steps)
        why = {
            "standardize": "0: the mean is NaN, and so is every image",
            "unit": "the first batch that holds a spoilt image",
        }.get(scaling, "")
        yield Headline(
            f"missing values, scaling={scaling}: step of the first NaN loss",
            f"{why} ({', '.join(map(str, told))})",
            shown,
            all(agree) if agree else None,
        )
        outliers = mine[mine["data.corrupt.kind"].astype(str) == "outlier"]
        bad = int(outliers["bad_step"].notna().sum())
        yield Headline(
            f"images times 100, scaling={scaling}: inf or NaN loss",
            "nothing is claimed",
            share(bad, len(outliers)),
            None,
        )


def regression_headlines(results: Results, criterion: Mapping[str, Any]) -> Iterator[Headline]:
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
    layers = results.layers
    sharp = layers[(layers["quantity"] == "sharpness") & (layers["step"] == 0)]
    by_cell = sharp.drop_duplicates("cell_id").set_index("cell_id")["value"]
    by_cell.index = by_cell.index.astype(str)
    return (cells["optim.lr"] * cells["cell_id"].astype(str).map(by_cell)).to_numpy(float)


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
