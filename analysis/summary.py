"""Summary of a sweep in a few sentences; the first three say what was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.load import Results
from analysis.theory_comparison import TheoryComparison, layer_table
from analysis.training_summary import summarize_training
from analysis.verdicts import (
    EXPLAINED,
    NOT_REJECTED,
    SIMULATED,
    UNKNOWN,
    count_verdicts,
    is_confirmed,
)
from fanin.statistics.agreement import AGREES, DISAGREES, NOT_TESTED, UNDECIDED
from fanin.theory.predict import THEORIES
from fanin.theory.prediction import METHODS

THEORY_LABELS = {
    "he": "the He/Glorot formula",
    "mean_field": "mean-field theory",
    "field": "the Gaussian field",
    "finite_width": "the finite-width law",
}
FIELD_THEORIES = ("field", "finite_width")  # include padding, pooling and the actual images
METHOD_DETAILS = {
    "first_order": " (formula, first order in 1/width)",
    "sampled": " (units or channels drawn layer by layer, without weights)",
}
QUANTITY_LABELS = {
    "preact_m2": "mean square of the forward signal (preact_m2)",
    "preact_var": "variance of the forward signal (preact_var)",
    "preact_mean": "mean of the forward signal (preact_mean)",
    "act_m2": "mean square of the activations (act_m2)",
    "act_zero_fraction": "share of zero activations (act_zero_fraction)",
    "vjp_m2": "mean square of the backward signal (vjp_m2)",
    "weight_vjp_m2": "mean square of the weight gradient (weight_vjp_m2)",
    "grad_m2": "mean square of the loss gradient (grad_m2)",
    "weight_grad_m2": "mean square of the loss's weight gradient (weight_grad_m2)",
}
# Quantities of which a difference says more than a factor.
DIFFERENCES = ("preact_mean", "input_correlation", "act_zero_fraction")
NEAR_FACTOR = 1.25
SD_RATIO = (0.9, 1.1)  # expected range of predicted / measured standard deviation
LARGEST_PLAIN = 1e4  # larger factors are written as powers of ten


def summarize_sweep(
    results: Results,
    comparisons: Sequence[TheoryComparison],
    rows: pd.DataFrame,
    by_method: pd.DataFrame,
    *,
    margin: float,
    level: float,
) -> list[str]:
    """Summarize a sweep in at most seven sentences.

    Parameters
    ----------
    results
        The sweep.
    comparisons
        All its settings.
    rows, by_method
        Their `analysis.verdicts.compute_verdicts` and `analysis.coverage.coverage_by`.
    margin, level
        The arguments of `compute_verdicts`.

    Returns
    -------
    list of str
        Distance of each theory; settings explained, not rejected and in disagreement, with the
        worst layer; training; layers by verdict; layers by method; coverage; missing predictions.
        Sentences without a subject, such as training in a sweep that trained nothing, are left out.
    """
    return [
        *_theory_sentence(comparisons),
        _setting_sentence(comparisons, rows, margin, level),
        *summarize_training(results, comparisons),
        *_layer_sentence(rows),
        *_method_sentence(rows),
        *_interval_sentence(by_method, level),
        *_unpredicted_sentence(comparisons),
    ]


def describe_files(results: Results, *, tables: bool) -> str:
    """Name the options and folders that have the details."""
    option = "" if tables else "--tables to see every layer or with "
    return (
        f"For details, run this command with {option}--csv FILE to save the layers, or read the "
        f"tables {results.folder.table('layers')}/ and {results.folder.table('predictions')}/."
    )


def format_needed(needed: float) -> str:
    """Format the verdict `undecided` with the number of draws that would decide.

    >>> format_needed(1234.0), format_needed(float("inf"))
    ('undecided: needs 1,200 draws', 'undecided: prediction error too large')
    """
    if np.isnan(needed):
        return "undecided"
    if np.isinf(needed):
        return "undecided: prediction error too large"
    return f"undecided: needs {_format_draws(needed)} draws"


def _format_draws(needed: float) -> str:
    return f"{float(f'{needed:.2g}'):,.0f}"


def format_factor(log_ratio: float) -> str:
    """Format measured / predicted in words.

    >>> format_factor(np.log(3.0)), format_factor(-np.log(3.0)), format_factor(np.log(1e30))
    ('3 times as large as predicted', '3 times smaller than predicted', '10^30 times as large as \
predicted')
    """
    direction = "as large as" if log_ratio >= 0 else "smaller than"
    return f"{format_size(abs(log_ratio))} times {direction} predicted"


def format_size(log_factor: float) -> str:
    """Format a factor above 1, given its logarithm, which may be too large for its exponential.

    >>> format_size(np.log(5.219)), format_size(2000.0), format_size(np.inf)
    ('5.22', '10^869', 'infinitely many')
    """
    if np.isinf(log_factor):
        return "infinitely many"
    if log_factor > np.log(LARGEST_PLAIN):
        return f"10^{log_factor / np.log(10):.0f}"
    return f"{float(f'{np.exp(log_factor):.3g}'):,.5g}"


def _setting_sentence(
    comparisons: Sequence[TheoryComparison], rows: pd.DataFrame, margin: float, level: float
) -> str:
    outcomes = count_verdicts(rows)["outcome"].value_counts()
    explained, not_rejected, disagreeing, not_tested = (
        int(outcomes.get(outcome, 0))
        for outcome in (EXPLAINED, NOT_REJECTED, DISAGREES, NOT_TESTED)
    )
    missing = {
        "without a prediction": len(comparisons) - int(outcomes.sum()),
        "with only constant, zero or overflowed layers": not_tested,
    }
    reasons = [f"{number} {reason}" for reason, number in missing.items() if number]
    untested = f"; not tested: {', '.join(reasons)}" if reasons else ""
    uncertain = " (some layers are undecided or simulated)" if not_rejected else ""
    return (
        f"Every layer agrees with theory within a factor of {margin:g} in {explained} of "
        f"{len(comparisons)} settings (combinations of model, activation and init), no layer "
        f"disagrees in {not_rejected} others{uncertain}, and layers disagree in {disagreeing}"
        f"{_describe_worst(rows, level) if disagreeing else ''}{untested}."
    )


def _describe_worst(rows: pd.DataFrame, level: float) -> str:
    """Describe the layer whose measurement differs from theory by the largest factor."""
    disagreeing = rows[rows["verdict"] == DISAGREES]
    # A layer may agree to within its error, but not its ratio to the layer before (the step).
    only_step = (disagreeing["kind"] == "tested") & ~(disagreeing["p_holm"] <= level)
    log_ratio = disagreeing["log_ratio"].where(~only_step, disagreeing["step"])
    size = log_ratio.abs().where(disagreeing["kind"] != "zero", np.inf)
    size = size.where(~disagreeing["quantity"].isin(DIFFERENCES), 0.0).fillna(0.0)
    worst = disagreeing.loc[size.idxmax()]
    quantity = QUANTITY_LABELS.get(worst["quantity"], worst["quantity"])
    return (
        f", most strongly layer {worst['layer_name']} of {worst['label']}: the {quantity}"
        f" is {_describe_error(worst, bool(only_step[worst.name]))}"
    )


def _describe_error(row: pd.Series, only_step: bool) -> str:
    if only_step:
        return f"{format_factor(row['step'])}, relative to the layer before"
    if row["kind"] == "zero" or row["quantity"] in DIFFERENCES:
        return f"{row['mean'] * row['scale']:.3g} instead of {row['value']:.3g}"
    return format_factor(row["log_ratio"])


def _layer_sentence(rows: pd.DataFrame) -> Iterator[str]:
    if rows.empty:
        return
    counts = rows["verdict"].value_counts()
    confirmed = int(is_confirmed(rows).sum())
    simulated = int(counts.get(AGREES, 0)) - confirmed
    agree_simulated = f"{simulated:,} agree with simulated networks, " if simulated else ""
    kinds = rows.loc[rows["verdict"] == NOT_TESTED, "kind"].value_counts()
    reasons = f" ({', '.join(f'{n:,} {kind}' for kind, n in kinds.items())})" if len(kinds) else ""
    yield (
        f"Of {len(rows):,} comparisons (one per layer, image and measured quantity), "
        f"{confirmed:,} agree with theory, {agree_simulated}"
        f"{counts.get(DISAGREES, 0):,} disagree, "
        f"{counts.get(UNDECIDED, 0):,} are undecided{_describe_undecided(rows)}, "
        f"and {counts.get(NOT_TESTED, 0):,} cannot be tested{reasons}."
    )


def _describe_undecided(rows: pd.DataFrame) -> str:
    needed = rows.loc[rows["verdict"] == UNDECIDED, "draws_needed"].astype(float)
    finite = needed[np.isfinite(needed)]
    details = []
    if len(finite):
        median = _format_draws(finite.median())
        details.append(f"{len(finite):,} need more draws of the weights, typically {median}")
    if np.isinf(needed).any():
        details.append(f"{np.isinf(needed).sum():,} need a more precise prediction")
    return f" ({'; '.join(details)})" if details else ""


def theory_distances(
    comparisons: Sequence[TheoryComparison],
) -> dict[str, list[tuple[float, int, str]]]:
    """Map each theory to measured / predicted, layer and setting of every layer's second moment."""
    tables = [(c.setting.label, layer_table(c)) for c in comparisons if c.unpredicted is None]
    distances = {}
    for theory in THEORIES:
        ratios = [
            (row[f"measured/{theory}"], row["layer"], label)
            for label, frame in tables
            for row in frame.to_dict("records")
        ]
        if not np.isnan([_log_distance(ratio) for ratio, *_ in ratios]).all():  # or all are 0/0
            distances[theory] = ratios
    return distances


def largest_error(ratios: Sequence[tuple[float, int, str]]) -> tuple[float, int, str]:
    """Return the entry of `theory_distances` that is furthest from 1."""
    return ratios[int(np.nanargmax([_log_distance(ratio) for ratio, *_ in ratios]))]


def _theory_sentence(comparisons: Sequence[TheoryComparison]) -> Iterator[str]:
    distances = theory_distances(comparisons)
    if not distances:
        return
    best = next(theory for theory in reversed(THEORIES) if theory in distances)
    ratios = distances[best]
    worst, layer, label = largest_error(ratios)
    subject = "Theory" if best in FIELD_THEORIES else _capitalize(THEORY_LABELS[best])
    others = [
        f"{THEORY_LABELS[theory]} does so in {_count_near(distances[theory])} (largest error: "
        f"{format_size(_log_distance(largest_error(distances[theory])[0]))} times)"
        for theory in distances
        if theory != best and theory not in FIELD_THEORIES
    ]
    yield (
        f"{subject} predicts the signal (mean square of a layer's output before the activation) "
        f"within a factor of {NEAR_FACTOR} in {_count_near(ratios)} of {len(ratios)} layers "
        f"(largest error: {format_size(_log_distance(worst))} times, layer {layer} of {label})"
        f"{''.join(f'; {other}' for other in others)}."
    )


def _count_near(ratios: Sequence[tuple[float, int, str]]) -> int:
    return sum(_log_distance(ratio) < np.log(NEAR_FACTOR) for ratio, *_ in ratios)


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def _log_distance(ratio: float) -> float:
    """Return |log ratio|; infinite if the measured or the predicted moment is 0."""
    with np.errstate(divide="ignore"):
        return abs(float(np.log(ratio)))


def _method_sentence(rows: pd.DataFrame) -> Iterator[str]:
    if rows.empty:
        return
    counts = rows["method"].value_counts()
    order = [*(method for method in METHODS if method in counts), *counts.index.difference(METHODS)]
    simulated = int(((rows["verdict"] == AGREES) & (rows["method"] == SIMULATED)).sum())
    details = dict(METHOD_DETAILS)
    if simulated:
        agree = f"the {simulated:,} that agree do not test the theory"
        details[SIMULATED] = f" (networks drawn at random, so {agree})"
    parts = [f"{counts[method]:,} {method}{details.get(method, '')}" for method in order]
    note = "; the stored predictions do not record their method" if UNKNOWN in counts else ""
    yield f"Predictions by method: {', '.join(parts)}{note}."


def _interval_sentence(by_method: pd.DataFrame, level: float) -> Iterator[str]:
    if by_method.empty:
        return
    parts = []
    for method, group in by_method.groupby("method", sort=False):
        shares = [f"{row.coverage:.1%} {row.direction}" for row in group.itertuples()]
        parts.append(f"{' and '.join(shares)} ({method})")
    wrong = [
        f"{row['method']} {row['direction']}"
        for row in by_method.to_dict("records")
        if is_miscalibrated(row, level / len(by_method))
    ]
    note = f"; the predicted distribution is wrong for: {', '.join(wrong)}" if wrong else ""
    yield (
        "The predicted 95 % intervals contain this share of the measured networks, each one draw "
        f"of the weights: {', '.join(parts)}{note}."
    )


def is_miscalibrated(row: Mapping[str, float], level: float) -> bool:
    """Return True if the spread is outside `SD_RATIO` or the draws are not as predicted."""
    low, high = SD_RATIO
    return row["sd_ratio"] < low or row["sd_ratio"] > high or row["pit_p"] <= level


def _unpredicted_sentence(comparisons: Sequence[TheoryComparison]) -> Iterator[str]:
    """List the reasons for missing predictions, each reason once."""
    reasons: dict[str, list[str]] = {}
    for comparison in comparisons:
        if comparison.unpredicted:
            reasons.setdefault(comparison.unpredicted, []).append(comparison.setting.label)
    parts = [
        f"{labels[0]}{f' and {len(labels) - 1} more' if labels[1:] else ''}: {reason}"
        for reason, labels in reasons.items()
    ]
    if parts:
        yield f"{'; '.join(parts)}."
