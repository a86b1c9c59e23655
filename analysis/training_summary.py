"""Summary of a sweep's training in one sentence: accuracy and divergence."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.load import Results
from analysis.theory_comparison import TheoryComparison
from experiments.config.groups import UPDATE_GROUPS
from experiments.config.instantiate import TARGET, instantiate_wrapped
from experiments.config.trust import UntrustedTarget
from experiments.data import Data

TRAINING_GROUPS = (*UPDATE_GROUPS, "train")  # groups that change training but not the setting
LABELED_KEY = "train.dtype"  # the one key of them that setting labels contain


def summarize_training(results: Results, comparisons: Sequence[TheoryComparison]) -> list[str]:
    """Name the best and the worst setting, and count diverged cells: one sentence or none."""
    parts = [_describe_accuracy(results.cells, comparisons), _describe_divergence(results.cells)]
    described = [part for part in parts if part]
    return [f"{'; '.join(described)}."] if described else []


def _describe_accuracy(cells: pd.DataFrame, comparisons: Sequence[TheoryComparison]) -> str:
    """Name the settings with the best and the lowest accuracy, each at its best training config."""
    training = _training_labels(cells)
    scores = []
    for comparison in comparisons:
        rows = cells[cells.cell_id.isin(comparison.setting.cell_ids)]
        # A diverged run counts as guessing.
        accuracy = rows.test_accuracy.mask(rows.outcome == "diverged", _chance_accuracy(comparison))
        means = accuracy.groupby(training[rows.index]).mean().dropna()
        if len(means):
            suffix = f" at {means.idxmax()}" if means.idxmax() else ""
            scores.append((means.max(), comparison.setting.label + suffix))
    if not cells.test_accuracy.notna().any() or not scores:
        return ""  # regression, nothing trained, or every run failed or diverged
    (high, best), (low, worst) = max(scores), min(scores)
    lowest = (
        f"; lowest among the {len(scores)} settings at their best training options: "
        f"{low:.1%} with {worst}"
    )
    return (
        f"Best test accuracy (mean over seeds): {high:.1%} with {best}"
        f"{lowest if len(scores) > 1 else ''}"
    )


def _training_labels(cells: pd.DataFrame) -> pd.Series:
    """Label each cell by the training keys that vary within the sweep."""
    keys = [
        key
        for key in cells
        if key.partition(".")[0] in TRAINING_GROUPS
        and not key.endswith(TARGET)
        and key != LABELED_KEY
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


def _chance_accuracy(comparison: TheoryComparison) -> float:
    config = comparison.setting.config["data"]
    try:
        n_classes = instantiate_wrapped(Data, config, "data").n_classes
    except UntrustedTarget:
        return float("nan")
    return 1 / n_classes if n_classes else float("nan")


def _describe_divergence(cells: pd.DataFrame) -> str:
    diverged = cells[cells.outcome == "diverged"]
    if diverged.empty:
        return ""
    first = diverged.loc[diverged.outcome_step.idxmin()]
    reason = first.outcome_reason
    if not str(reason).startswith(str(first.outcome_tensor)):  # not "loss above bound in loss"
        reason = f"{reason} in {first.outcome_tensor}"
    return (
        f"{len(diverged)} of {len(cells)} training runs diverged (the earliest at step "
        f"{int(first.outcome_step)}: {reason})"
    )
