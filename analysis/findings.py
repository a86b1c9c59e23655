"""What a sweep found, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.load import Results
from analysis.measured import Comparison, table
from analysis.theory.cell import RUNGS
from experiments.config.schema import build_cell

NAMES = {"he": "The He/Glorot product formula", "mean_field": "Mean field"}
NEAR = 1.25  # "near" in the sentences: within this factor


def findings(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    """A few sentences: how near each rung comes, where it is furthest off, and who trained."""
    return [
        *_theory(comparisons),
        *_training(results, comparisons),
        f"Tables: {results.folder.root}/; every layer's numbers: the tables above "
        f"(--csv FILE keeps them), predictions: {results.folder.table('predictions')}/",
    ]


def _theory(comparisons: Sequence[Comparison]) -> list[str]:
    tables = [(c.setting.label, table(c)) for c in comparisons if c.unpredicted is None]
    lines = []
    for rung in RUNGS:
        ratios = pd.concat([t[f"measured/{rung}"] for _, t in tables]) if tables else pd.Series()
        finite = ratios[np.isfinite(ratios) & (ratios > 0)]
        if finite.empty:
            continue
        near = int((np.abs(np.log(finite)) < np.log(NEAR)).sum())
        label, row = max(
            ((name, row) for name, t in tables for row in t.to_dict("records")),
            key=lambda item: _distance(item[1][f"measured/{rung}"]),
        )
        lines.append(
            f"{NAMES[rung]} is within a factor of {NEAR} of the measured second moment in {near} "
            f"of {len(ratios)} layers; it is furthest off at layer {row['layer']} of {label}, "
            f"where measured / predicted is {row[f'measured/{rung}']:.3g}."
        )
    return lines + [
        f"No prediction for {comparison.setting.label}: {comparison.unpredicted}"
        for comparison in comparisons
        if comparison.unpredicted
    ]


def _distance(ratio: float) -> float:
    return abs(float(np.log(ratio))) if np.isfinite(ratio) and ratio > 0 else 0.0


def _chance(comparison: Comparison) -> float:
    n_classes = build_cell(comparison.setting.config).data.n_classes
    return 1 / n_classes if n_classes else 0.0


def _training(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    """Best and worst settings by test accuracy at their best learning rate, mean over seeds."""
    cells = results.cells
    if "optim.lr" not in cells or not cells.test_accuracy.notna().any():
        return []
    scores = {}
    for comparison in comparisons:
        mine = cells[cells.cell_id.isin(comparison.setting.cell_ids)]
        # A diverged run answers as chance does.
        accuracy = mine.test_accuracy.fillna(_chance(comparison)).groupby(mine["optim.lr"]).mean()
        scores[comparison.setting.label] = (accuracy.max(), accuracy.idxmax())
    ranked = sorted(scores.items(), key=lambda item: -item[1][0])
    (best, (high, best_lr)), (worst, (low, _)) = ranked[0], ranked[-1]
    lines = [
        f"Best test accuracy: {high:.1%} with {best} at lr {best_lr:g} (mean over seeds); "
        f"lowest at its best lr: {low:.1%} with {worst}."
    ]
    diverged = int((cells.outcome == "diverged").sum())
    if diverged:
        first = cells[cells.outcome == "diverged"].iloc[0]
        lines.append(
            f"{diverged} of {len(cells)} cells diverged (the first at step "
            f"{int(first.outcome_step)}, {first.outcome_reason} in {first.outcome_tensor})."
        )
    return lines
