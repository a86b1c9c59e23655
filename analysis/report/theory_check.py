"""The theory section of the report: sentences, verdicts by setting, coverage of intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor
from typing import Any

import numpy as np
import pandas as pd

from analysis.coverage import coverage_by, interval_coverage
from analysis.load import Results
from analysis.predictions import OnPredicted
from analysis.settings import measured_settings
from analysis.summary import summarize_sweep
from analysis.theory_comparison import TheoryComparison, compare_to_theory
from analysis.verdict_details import describe_verdicts
from analysis.verdicts import SIMULATED, compute_verdicts, count_verdicts
from fanin.errors import FaninError
from fanin.statistics.agreement import AGREES, DISAGREES, NOT_TESTED, UNDECIDED

MARGIN, LEVEL = 1.1, 0.05  # the defaults of `analysis.check`
COUNTS = (AGREES, SIMULATED, UNDECIDED, DISAGREES, NOT_TESTED)
SKIPPED = "skipped (--no-theory)"


@dataclass(frozen=True)
class SettingRow:
    """One setting: number of layers by verdict, outcome, and the layer with the largest error.

    `counts` has the columns of `count_verdicts` except `outcome`; `agrees` includes `simulated`.
    """

    label: str
    counts: dict[str, int]
    outcome: str
    largest_error: str


@dataclass(frozen=True)
class TheorySection:
    """Result of the theory check, or the reason for its absence (`skip_reason`).

    Attributes
    ----------
    findings
        The sentences of `analysis.summary.summarize_sweep`.
    sentences
        The sentences of `analysis.verdict_details.describe_verdicts`.
    settings
        One row per setting.
    intervals
        Rows of `analysis.coverage.interval_coverage`.
    methods
        Rows of `analysis.coverage.coverage_by`, by method.
    """

    findings: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    settings: list[SettingRow] = field(default_factory=list)
    intervals: list[dict[str, Any]] = field(default_factory=list)
    methods: list[dict[str, Any]] = field(default_factory=list)
    skip_reason: str | None = None

    @property
    def scale_start(self) -> float:
        """Lower end of the coverage scale."""
        return min([0.8, *(floor(10 * row["low"]) / 10 for row in self.intervals)])


def try_compare(
    results: Results, workers: int, on_predicted: OnPredicted
) -> tuple[list[TheoryComparison], str | None]:
    """Compare every setting to theory.

    On failure, return the settings without predictions, and the reason.
    """
    try:
        return compare_to_theory(results, workers=workers, on_predicted=on_predicted), None
    except FaninError as error:
        reason = str(error).removeprefix(f"{results.folder.root}: ")
        return without_predictions(results), reason


def without_predictions(results: Results) -> list[TheoryComparison]:
    """Return every measured setting, with an empty prediction."""
    if results.layers.empty or not (results.layers.step == 0).any():
        return []
    return [
        TheoryComparison(setting, draws, pd.DataFrame(), SKIPPED)
        for setting, draws in measured_settings(results)
    ]


def check_theory(results: Results, comparisons: Sequence[TheoryComparison]) -> TheorySection:
    """Compute the verdicts that `analysis.check` prints."""
    try:
        return _check(results, comparisons)
    except FaninError as error:  # for example, user code that no longer exists
        return TheorySection(skip_reason=str(error))


def _check(results: Results, comparisons: Sequence[TheoryComparison]) -> TheorySection:
    rows = compute_verdicts(comparisons, margin=MARGIN, level=LEVEL)
    intervals, by_method = interval_coverage(comparisons, rows), coverage_by(comparisons, rows)
    bounds = {"margin": MARGIN, "level": LEVEL}
    return TheorySection(
        findings=summarize_sweep(results, comparisons, rows, by_method, **bounds),
        sentences=describe_verdicts(comparisons, rows, intervals, by_method, **bounds),
        settings=_setting_rows(comparisons, rows),
        intervals=_select_intervals(intervals),
        methods=by_method.to_dict("records"),
    )


def _select_intervals(coverage: pd.DataFrame) -> list[dict[str, Any]]:
    """Split by width only if there are both wide and narrow networks."""
    if coverage.empty:
        return []
    split = set(coverage["width"]) == {"all", "wide", "narrow"}
    return (coverage if split else coverage[coverage["width"] == "all"]).to_dict("records")


def _setting_rows(comparisons: Sequence[TheoryComparison], rows: pd.DataFrame) -> list[SettingRow]:
    if rows.empty:
        return []
    counts = count_verdicts(rows).to_dict("index")
    groups = dict(iter(rows.groupby("setting")))
    return [
        SettingRow(
            label=comparison.setting.label,
            counts={verdict: int(counts[n][verdict]) for verdict in COUNTS},
            outcome=str(counts[n]["outcome"]),
            largest_error=_largest_error(groups[n]),
        )
        if n in counts
        else SettingRow(comparison.setting.label, {}, "unpredicted", comparison.unpredicted or "")
        for n, comparison in enumerate(comparisons)
    ]


def _largest_error(rows: pd.DataFrame) -> str:
    """Describe the tested layer that is furthest from its prediction in standard errors."""
    tested = rows[(rows["kind"] == "tested") & (rows["log_ratio_se"] > 0)]
    if tested.empty:
        return "no layer was tested"
    row = tested.loc[(tested["log_ratio"].abs() / tested["log_ratio_se"]).idxmax()]
    layer = f"{row['quantity']} of layer {row['layer']} ({row['layer_name']})"
    errors = f"({abs(row['log_ratio'] / row['log_ratio_se']):.1f} standard errors)"
    if row["test"] == "linear":
        unit = "" if row["quantity"] == "input_correlation" else ", divided by the predicted RMS"
        return f"{layer}: measured - predicted{unit}: {row['log_ratio']:+.3g} {errors}"
    with np.errstate(over="ignore"):
        return f"{layer}: {np.exp(row['log_ratio']):.3g} times predicted {errors}"
