"""The report's own numbers: a black map, a filter of -5e4, gradients of the classifier's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.figures.dying_relu.runs import CIRCLE, CROSS, Runs
from analysis.figures.study import Headline


def reported(runs: Runs, criterion: Mapping[str, Any]) -> Iterator[Headline]:
    """What the report says of the network after the step, and what is there."""
    cells = runs.kind("report")
    yield Headline(
        "feature map of both images after the first step on the cross, learning rate 1",
        "black (report)",
        ", ".join(
            f"{inputs}: black in {rows['dead'].sum()} of {len(rows)} runs"
            for inputs, rows in cells.groupby("inputs")
        ),
        bool(cells["dead"].all()),
    )
    yield _filters(runs, cells, float(criterion["filter"]), float(criterion["factor"]))
    yield from _gradients(runs, cells, criterion)


def _filters(runs: Runs, cells: pd.DataFrame, reported: float, factor: float) -> Headline:
    told, expected, holds = [], [], []
    for (inputs, side), rows in cells.groupby(["inputs", "data.side"]):
        means = [
            float(runs.values(str(cell_id), "conv1", "weight", int(row["seen"]), -1).mean())
            for cell_id, row in rows.iterrows()
        ]
        cell_id = str(rows.index[0])
        theory = runs.theory(cell_id)
        cross = runs.labels(cell_id).tolist().index(CROSS)
        gradient = theory.mean * theory.patches[cross].sum(0)
        told.append(f"{inputs}, side {side}: {min(means):.1e} to {max(means):.1e}")
        predicted = theory.mean - float(rows["optim.lr"].iloc[0]) * float(gradient.mean())
        expected.append(f"{predicted:.1e}")
        holds.append(all(reported * factor <= mean <= reported / factor for mean in means))
    where = [words.partition(":")[0] for words, holding in zip(told, holds, strict=True) if holding]
    return Headline(
        "mean weight of the filter after it",
        f"{reported:.0e} (report); by theory, in the order on the right, {', '.join(expected)}",
        "; ".join(told) + f". Within a factor of {factor:g}: {', '.join(where) or 'none'}",
        any(holds),
    )


def _gradients(runs: Runs, cells: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[Headline]:
    """At any step after the first one on the cross, in any of the runs."""
    medians = _medians(runs, cells)
    circle, cross = (criterion[name] for name in ("circle", "cross"))
    inside = _inside(medians[CIRCLE], circle) & _inside(medians[CROSS], cross)
    turned = _inside(-medians[CIRCLE], circle) & _inside(-medians[CROSS], cross)
    large = medians[_inside(medians[CIRCLE], cross)]
    where = ", ".join(sorted(cells.loc[large["cell_id"], "inputs"].unique()))
    widest = cells[cells["data.side"] == cells["data.side"].max()]
    raw = widest[widest["scaling"] == "raw"]
    like = raw if len(raw) else widest
    shown = medians[medians["cell_id"].isin(like.index) & medians["first"]]
    yield Headline(
        "median gradient with respect to the classifier's inputs, on the circle and on the cross",
        f"{_range(circle)} and {_range(cross)} (report)",
        f"both so in {int(inside.sum())} of {len(medians)} looks at {len(cells)} runs, with the "
        f"other sign in {int(turned.sum())}. {_range(cross)} on the *circle* in {len(large)} "
        f"({where or 'nowhere'}). After the step, {like['inputs'].iloc[0]}, side "
        f"{like['data.side'].iloc[0]}: circle {_spread(shown[CIRCLE])}, cross "
        f"{_spread(shown[CROSS])}",
        bool(inside.any()),
    )
    # A black map gives both images one logit: gradients (p - 1) v and p v, v the weights.
    odds = -np.mean(cross) / np.mean(circle)  # p / (1 - p)
    sure = _logits(runs, cells)
    yield Headline(
        "logit that both images share once the maps are black",
        f"{np.log(odds):.1f}, were it as reported: the two gradients are (p - 1) v "
        "and p v with the same weights v, of which then v > 0",
        f"{sure.min():.3g} to {sure.max():.3g}; median v after the step: {_readouts(runs, cells)}",
        None,
    )


def _medians(runs: Runs, cells: pd.DataFrame) -> pd.DataFrame:
    """By cell and step since the cross was seen: median gradient on circle and cross."""
    table = runs.results.tensors
    mine = table[
        table["cell_id"].isin(cells.index)
        & (table["layer_name"] == "fc1")
        & (table["quantity"] == "input_grad")
    ]
    keys = [mine["cell_id"].astype(str), mine["step"], mine["image"]]
    by_image = mine["value"].groupby(keys).median().unstack("image").reset_index()
    seen = by_image["cell_id"].map(cells["seen"])
    by_image = by_image[by_image["step"] >= seen].assign(first=by_image["step"] == seen)
    labels = runs.labels(str(cells.index[0])).tolist()
    return by_image.rename(columns=dict(enumerate(labels)))


def _inside(values: pd.Series, bounds: list[float]) -> pd.Series:
    return values.between(*bounds)


def _logits(runs: Runs, cells: pd.DataFrame) -> pd.Series:
    layers = runs.results.layers
    mine = layers[
        layers["cell_id"].isin(cells.index[cells["dead"]])
        & (layers["layer_name"] == "fc1")
        & (layers["quantity"] == "preact_mean")
        & (layers["image"] == 0)
    ]
    seen = mine["cell_id"].astype(str).map(cells["seen"])
    return mine["value"][mine["step"] >= seen]


def _readouts(runs: Runs, cells: pd.DataFrame) -> str:
    told = []
    for inputs, rows in cells.groupby("inputs"):
        medians = [
            float(runs.values(str(name), "fc1", "weight", int(row["seen"]), -1).median())
            for name, row in rows.iterrows()
        ]
        told.append(f"{inputs} {min(medians):.3g} to {max(medians):.3g}")
    return ", ".join(told)


def _range(bounds: list[float]) -> str:
    return f"{bounds[0]:+g} to {bounds[1]:+g}"


def _spread(values: pd.Series) -> str:
    found = torch.tensor(values.to_numpy()) + 0.0  # no -0
    return f"{float(found.min()):+.3g} to {float(found.max()):+.3g}"
