"""Measured against predicted: sentences, a row a setting, and the intervals' coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import Results
from analysis.predictions import OnPredicted
from analysis.settings import measured_settings
from analysis.summary import summarize_findings, summarize_verdicts
from analysis.theory_comparison import TheoryComparison, compare_to_theory
from analysis.verdicts import compute_verdicts, count_verdicts, interval_coverage
from fanin.errors import FaninError
from fanin.statistics.agreement import AGREES, DISAGREES, NOT_TESTED, UNDECIDED

MARGIN, LEVEL = 1.1, 0.05  # those of `analysis.check`
COUNTED = (AGREES, UNDECIDED, DISAGREES, NOT_TESTED)
LEFT_OUT = "left out (--no-theory)"


@dataclass(frozen=True)
class SettingRow:
    """One setting: how many layers got each verdict, what it comes to, the layer furthest off."""

    label: str
    counts: dict[str, int]
    outcome: str
    worst: str


@dataclass(frozen=True)
class Checked:
    """Result of the theory check, or why there is none (`skip_reason`).

    Attributes
    ----------
    answers
        What the sweep found, in words: how near each theory comes, who trained.
    sentences
        What the verdicts come to.
    intervals
        Rows of `analysis.verdicts.interval_coverage`.
    """

    answers: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    settings: list[SettingRow] = field(default_factory=list)
    intervals: list[dict[str, Any]] = field(default_factory=list)
    skip_reason: str | None = None

    @property
    def least(self) -> float:
        """Lower end of the scale on which coverage is drawn."""
        return min([0.8, *(floor(10 * row["low"]) / 10 for row in self.intervals)])


def predicted(
    results: Results, workers: int, on_predicted: OnPredicted
) -> tuple[list[TheoryComparison], str | None]:
    """Every setting beside its prediction; or, and why, without one."""
    try:
        return compare_to_theory(results, workers=workers, on_predicted=on_predicted), None
    except FaninError as error:
        return unpredicted(results), str(error).removeprefix(f"{results.folder.root}: ")


def unpredicted(results: Results) -> list[TheoryComparison]:
    """Every setting that was measured, without a prediction."""
    if results.layers.empty or not (results.layers.step == 0).any():
        return []
    return [
        TheoryComparison(setting, draws, pd.DataFrame(), LEFT_OUT)
        for setting, draws in measured_settings(results)
    ]


def checked(results: Results, comparisons: Sequence[TheoryComparison]) -> Checked:
    """Hold every layer against theory; the same numbers as `analysis.check` prints."""
    try:
        return _checked(results, comparisons)
    except FaninError as error:  # a part of somebody's own that isn't there any more
        return Checked(skip_reason=str(error))


def _checked(results: Results, comparisons: Sequence[TheoryComparison]) -> Checked:
    rows = compute_verdicts(comparisons, margin=MARGIN, level=LEVEL)
    covered = interval_coverage(comparisons, rows)
    return Checked(
        answers=summarize_findings(results, comparisons),
        sentences=summarize_verdicts(comparisons, rows, covered, margin=MARGIN, level=LEVEL),
        settings=_setting_rows(comparisons, rows),
        intervals=_told_apart(covered),
    )


def _told_apart(covered: pd.DataFrame) -> list[dict[str, Any]]:
    """By width where there are both kinds of networks; else all of them are of one."""
    if covered.empty:
        return []
    both = set(covered["width"]) == {"all", "wide", "narrow"}
    return (covered if both else covered[covered["width"] == "all"]).to_dict("records")


def _setting_rows(comparisons: Sequence[TheoryComparison], rows: pd.DataFrame) -> list[SettingRow]:
    if rows.empty:
        return []
    counts = count_verdicts(rows).to_dict("index")
    groups = dict(iter(rows.groupby("setting")))
    return [
        SettingRow(
            label=comparison.setting.label,
            counts={word: int(counts[n][word]) for word in COUNTED},
            outcome=str(counts[n]["outcome"]),
            worst=_furthest(groups[n]),
        )
        if n in counts
        else SettingRow(comparison.setting.label, {}, "unpredicted", comparison.unpredicted or "")
        for n, comparison in enumerate(comparisons)
    ]


def _furthest(rows: pd.DataFrame) -> str:
    """The tested layer that is furthest from its prediction in standard errors."""
    tested = rows[(rows["kind"] == "tested") & (rows["log_ratio_se"] > 0)]
    if tested.empty:
        return "nothing was tested"
    row = tested.loc[(tested["log_ratio"].abs() / tested["log_ratio_se"]).idxmax()]
    where = f"{row['quantity']} of layer {row['layer']} ({row['layer_name']})"
    errors = f"({abs(row['log_ratio'] / row['log_ratio_se']):.1f} se)"
    if row["test"] == "linear":
        return f"{where}: off by {row['log_ratio']:+.3g} of its unit {errors}"
    with np.errstate(over="ignore"):
        return f"{where}: {np.exp(row['log_ratio']):.3g} times predicted {errors}"
