"""Claims of the report (docs/questions/dying_relu.md) on the network after one training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.figures.dying_relu.cells import CIRCLE, CROSS, SweepCells
from analysis.figures.query import select
from analysis.figures.study import ClaimResult


def report_claims(cells: SweepCells, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Test the report's statements on the network after the first step on the image of a cross."""
    report = cells.part("report")
    yield ClaimResult(
        "feature maps of both images after the first step on the cross, learning rate 1",
        "black (report)",
        "; ".join(
            f"{inputs}: black in {rows['dead'].sum()} of {len(rows)} runs"
            for inputs, rows in report.groupby("inputs")
        ),
        bool(report["dead"].all()),
        threshold="black in every run",
    )
    yield _filter_claim(cells, report, float(criterion["filter"]), float(criterion["factor"]))
    yield from _gradient_claims(cells, report, criterion)


def _filter_claim(
    cells: SweepCells, report: pd.DataFrame, reported: float, factor: float
) -> ClaimResult:
    groups, measured, holds = [], [], []
    for (inputs, side), rows in report.groupby(["inputs", "data.side"]):
        means = [
            float(cells.tensor(str(name), "conv1", "weight", int(row["cross_step"]), -1).mean())
            for name, row in rows.iterrows()
        ]
        cell_id = str(rows.index[0])
        theory = cells.theory(cell_id)
        cross = cells.labels(cell_id).tolist().index(CROSS)
        gradient = theory.mean * theory.patches[cross].sum(0)
        mean_weight = theory.mean - float(rows["optim.lr"].iloc[0]) * float(gradient.mean())
        groups.append(f"{inputs}, side {side}")
        measured.append(
            f"{inputs}, side {side}: {min(means):.1e} to {max(means):.1e} "
            f"(theory: {mean_weight:.1e})"
        )
        holds.append(all(reported * factor <= mean <= reported / factor for mean in means))
    close = [group for group, is_close in zip(groups, holds, strict=True) if is_close]
    return ClaimResult(
        "mean weight of the filter after this step, over the runs of each input range and side",
        f"{reported:.0e} within a factor of {factor:g}, for some input range and side (report)",
        f"{'; '.join(measured)}. Within a factor of {factor:g} of the report: "
        f"{', '.join(close) or 'none'}",
        any(holds),
        threshold=f"within a factor of {factor:g} in all runs of a group",
    )


def _gradient_claims(
    cells: SweepCells, report: pd.DataFrame, criterion: Mapping[str, Any]
) -> Iterator[ClaimResult]:
    """Test the reported gradients at all probed steps, starting after the first on the cross."""
    medians = _median_gradients(cells, report)
    circle, cross = (criterion[name] for name in ("circle", "cross"))
    as_reported = medians[CIRCLE].between(*circle) & medians[CROSS].between(*cross)
    opposite = (-medians[CIRCLE]).between(*circle) & (-medians[CROSS]).between(*cross)
    swapped = medians[medians[CIRCLE].between(*cross)]
    inputs = ", ".join(sorted(report.loc[swapped["cell_id"], "inputs"].unique()))
    swapped_inputs = f" (all with {inputs})" if inputs else ""
    widest = report[report["data.side"] == report["data.side"].max()]
    raw = widest[widest["scaling"] == "raw"]
    example = raw if len(raw) else widest
    after_step = medians[medians["cell_id"].isin(example.index) & medians["first"]]
    yield ClaimResult(
        "median gradient with respect to the classifier's inputs, for each image",
        f"{_format_bounds(circle)} for the circle, {_format_bounds(cross)} for the cross (report)",
        f"of {len(medians)} probed steps ({len(report)} runs): {int(as_reported.sum())} as "
        f"reported, {int(opposite.sum())} with both signs reversed, {len(swapped)} with "
        f"{_format_bounds(cross)} for the circle{swapped_inputs}. After the first step on the "
        f"cross, for {example['inputs'].iloc[0]} and side {example['data.side'].iloc[0]}: circle "
        f"{_format_range(after_step[CIRCLE])}, cross {_format_range(after_step[CROSS])}",
        bool(as_reported.any()),
        threshold="both in these ranges at one step of a run",
    )
    # Black maps give both images the same logit, so the gradients are (p - 1) v and p v.
    odds = -np.mean(cross) / np.mean(circle)  # p / (1 - p)
    logits = _shared_logits(cells, report)
    yield ClaimResult(
        "logit of both images once the maps are black",
        f"not tested. {np.log(odds):.1f} would follow from the reported gradients, if these are "
        "(p - 1) v for the circle and p v for the cross (v > 0: weights of the classifier)",
        f"{logits.min():.3g} to {logits.max():.3g}. Median of v after the first step on the cross: "
        f"{_classifier_weights(cells, report)}",
        None,
    )


def _median_gradients(cells: SweepCells, report: pd.DataFrame) -> pd.DataFrame:
    """Return the median input gradient of the classifier (`fc1`) for the images circle and cross.

    One row per cell and step, from `cross_step` on.
    """
    rows = select(cells.results.tensors, layer_name="fc1", quantity="input_grad")
    rows = rows[rows["cell_id"].isin(report.index)]
    keys = [rows["cell_id"].astype(str), rows["step"], rows["image"]]
    by_image = rows["value"].groupby(keys).median().unstack("image").reset_index()
    cross_step = by_image["cell_id"].map(report["cross_step"])
    by_image = by_image.assign(first=by_image["step"] == cross_step)
    by_image = by_image[by_image["step"] >= cross_step]
    labels = cells.labels(str(report.index[0])).tolist()
    return by_image.rename(columns=dict(enumerate(labels)))


def _shared_logits(cells: SweepCells, report: pd.DataFrame) -> pd.Series:
    rows = select(cells.results.layers, layer_name="fc1", quantity="preact_mean", image=0)
    rows = rows[rows["cell_id"].isin(report.index[report["dead"]])]
    cross_step = rows["cell_id"].astype(str).map(report["cross_step"])
    return rows["value"][rows["step"] >= cross_step]


def _classifier_weights(cells: SweepCells, report: pd.DataFrame) -> str:
    parts = []
    for inputs, rows in report.groupby("inputs"):
        medians = [
            float(cells.tensor(str(name), "fc1", "weight", int(row["cross_step"]), -1).median())
            for name, row in rows.iterrows()
        ]
        parts.append(f"{min(medians):.3g} to {max(medians):.3g} for {inputs}")
    return ", ".join(parts)


def _format_bounds(bounds: list[float]) -> str:
    return f"{bounds[0]:+g} to {bounds[1]:+g}"


def _format_range(values: pd.Series) -> str:
    tensor = torch.tensor(values.to_numpy()) + 0.0  # turns -0 into 0
    return f"{float(tensor.min()):+.3g} to {float(tensor.max()):+.3g}"
