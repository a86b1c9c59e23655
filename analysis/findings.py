"""What a sweep found, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.comparison import Comparison, table
from analysis.load import Results
from experiments.config.schema import build_cell
from fanin.instantiate import TARGET
from fanin.theory.rungs import RUNGS

NAMES = {
    "he": "The He/Glorot product formula",
    "mean_field": "Mean field",
    "field": "The Gaussian field",
    "finite": "The finite-width law",
}
# What decides how a network learns, beyond what a setting's label tells.
TRAINING = ("optim", "schedule", "clip", "train")
TOLD = "train.dtype"  # by the label
NEAR = 1.25  # "near" in the sentences: within this factor


def findings(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    """What was `found`, and where the numbers are."""
    return [
        *found(results, comparisons),
        f"Tables: {results.folder.root}/; every layer's numbers: the tables above "
        f"(--csv FILE keeps them), predictions: {results.folder.table('predictions')}/",
    ]


def found(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    """A few sentences: how near each rung comes, where it is furthest off, and who trained."""
    return [*_theory(comparisons), *_training(results, comparisons)]


def _theory(comparisons: Sequence[Comparison]) -> list[str]:
    tables = [(c.setting.label, table(c)) for c in comparisons if c.unpredicted is None]
    lines = []
    for rung in RUNGS:
        ratios = [
            (row[f"measured/{rung}"], row["layer"], label)
            for label, frame in tables
            for row in frame.to_dict("records")
        ]
        distances = [_distance(ratio) for ratio, _, _ in ratios]
        if np.isnan(distances).all():  # there are none, or all are 0/0
            continue
        near = sum(distance < np.log(NEAR) for distance in distances)
        ratio, layer, label = ratios[int(np.nanargmax(distances))]
        lines.append(
            f"{NAMES[rung]} is within a factor of {NEAR} of the measured second moment in {near} "
            f"of {len(ratios)} layers; it is furthest off at layer {layer} of {label}, "
            f"where measured / predicted is {ratio:.3g}."
        )
    return [*lines, *_unpredicted(comparisons)]


def _unpredicted(comparisons: Sequence[Comparison]) -> list[str]:
    """Why settings have no prediction, each reason once."""
    reasons: dict[str, list[str]] = {}
    for comparison in comparisons:
        if comparison.unpredicted:
            reasons.setdefault(comparison.unpredicted, []).append(comparison.setting.label)
    more = {reason: len(labels) - 1 for reason, labels in reasons.items()}
    return [
        f"{labels[0]}{f' and {more[reason]} more' if more[reason] else ''}: {reason}."
        for reason, labels in reasons.items()
    ]


def _distance(ratio: float) -> float:
    """From 1, in logarithm: infinite where the measured or the predicted moment vanished."""
    with np.errstate(divide="ignore"):
        return abs(float(np.log(ratio)))


def _training(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    return [*_accuracy(results.cells, comparisons), *_divergence(results.cells)]


def _accuracy(cells: pd.DataFrame, comparisons: Sequence[Comparison]) -> list[str]:
    """Best and worst setting by test accuracy, each trained the way that suits it best."""
    ways = _ways(cells)
    scores = []
    for comparison in comparisons:
        mine = cells[cells.cell_id.isin(comparison.setting.cell_ids)]
        # A diverged run answers as chance does.
        answered = mine.test_accuracy.mask(mine.outcome == "diverged", _chance(comparison))
        means = answered.groupby(ways[mine.index]).mean().dropna()
        if len(means):
            at = f" at {means.idxmax()}" if means.idxmax() else ""
            scores.append((means.max(), comparison.setting.label + at))
    if not cells.test_accuracy.notna().any() or not scores:
        return []  # regressions, probes alone, or nothing that lasted
    (high, best), (low, worst) = max(scores), min(scores)
    others = f"; lowest of the settings, each at its best: {low:.1%} with {worst}"
    return [
        f"Best test accuracy (mean over seeds): {high:.1%} with {best}"
        f"{others if len(scores) > 1 else ''}."
    ]


def _ways(cells: pd.DataFrame) -> pd.Series:
    """How each cell trained, as far as that differs among the cells of the sweep."""
    keys = [
        key
        for key in cells
        if key.partition(".")[0] in TRAINING
        and not key.endswith(TARGET)
        and key != TOLD
        and cells[key].nunique(dropna=False) > 1
    ]
    return pd.Series(
        [
            " ".join(f"{key}={value}" for key, value in row.items() if not pd.isna(value))
            for row in cells[keys].to_dict("records")
        ],
        index=cells.index,
        dtype=object,
    )


def _chance(comparison: Comparison) -> float:
    n_classes = build_cell(comparison.setting.config).data.n_classes
    return 1 / n_classes if n_classes else float("nan")


def _divergence(cells: pd.DataFrame) -> list[str]:
    diverged = cells[cells.outcome == "diverged"]
    if diverged.empty:
        return []
    first = diverged.loc[diverged.outcome_step.idxmin()]
    return [
        f"{len(diverged)} of {len(cells)} cells diverged (the earliest at step "
        f"{int(first.outcome_step)}, {first.outcome_reason} in {first.outcome_tensor})."
    ]
