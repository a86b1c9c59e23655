"""Summary of a sweep in sentences: verdicts, distance of each theory, and training results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.compare.tables import plural
from analysis.load import Results
from analysis.theory_comparison import TheoryComparison, layer_table
from analysis.verdicts import count_verdicts
from experiments.config.groups import UPDATE_GROUPS
from experiments.config.instantiate import TARGET
from experiments.schema import build_cell
from fanin.statistics.agreement import AGREES, DISAGREES, NOT_TESTED, UNDECIDED
from fanin.theory.predict import THEORIES

THEORY_LABELS = {
    "he": "Theory `he` (the He/Glorot product formula)",
    "mean_field": "Theory `mean_field`",
    "field": "Theory `field`",
    "finite_width": "Theory `finite_width`",
}
TRAINING_GROUPS = (*UPDATE_GROUPS, "train")  # groups that change training but not the setting
LABELED_KEY = "train.dtype"  # the only key of these groups in the labels of settings
NEAR_FACTOR = 1.25


def summarize_verdicts(
    comparisons: Sequence[TheoryComparison],
    rows: pd.DataFrame,
    intervals: pd.DataFrame,
    *,
    margin: float,
    level: float,
) -> list[str]:
    """Summarize the verdicts in sentences, and name the settings that disagree.

    Parameters
    ----------
    comparisons
        All settings of a sweep.
    rows, intervals
        Their `analysis.verdicts.compute_verdicts` and `analysis.verdicts.interval_coverage`.
    margin, level
        The arguments of `compute_verdicts`.
    """
    settings = count_verdicts(rows)
    return [
        *_setting_sentence(comparisons, settings),
        *_layer_sentence(rows, margin, level),
        *_step_sentence(rows),
        *_spread_sentence(rows, level),
        *_interval_sentences(intervals),
        *_disagreement_sentences(rows, settings),
    ]


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


def _setting_sentence(
    comparisons: Sequence[TheoryComparison], settings: pd.DataFrame
) -> Iterator[str]:
    outcomes = settings["outcome"].value_counts()
    fully = ((settings["outcome"] == "explained") & (settings[UNDECIDED] == 0)).sum()
    unpredicted = len(comparisons) - len(settings)
    not_tested = outcomes.get(NOT_TESTED, 0)
    reasons = [
        f"{number} {reason}"
        for number, reason in (
            (unpredicted, "without a prediction"),
            (not_tested, "with only constant, zero or overflowed layers"),
        )
        if number
    ]
    explained = outcomes.get("explained", 0)
    yield (
        f"No layer disagrees with theory in {explained} of {len(comparisons)} settings (every "
        f"tested layer agrees in {fully}, some are undecided in {explained - fully}). At least "
        f"one layer disagrees in {plural(outcomes.get(DISAGREES, 0), 'setting')}"
        f"{'. Not tested: ' + ', '.join(reasons) if reasons else ''}."
    )


def _layer_sentence(rows: pd.DataFrame, margin: float, level: float) -> Iterator[str]:
    counts = rows["verdict"].value_counts()
    agrees = rows[rows["verdict"] == AGREES]
    differing = (agrees["p_holm"] <= level).sum()
    differ = f" ({differing} of them differ significantly, by less than that)" if differing else ""
    needed = rows.loc[rows["verdict"] == UNDECIDED, "draws_needed"].astype(float)
    details = []
    if np.isfinite(needed).any():
        median = _format_draws(needed[np.isfinite(needed)].median())
        details.append(f"median of the draws needed: about {median}")
    if np.isinf(needed).any():
        details.append(f"{np.isinf(needed).sum()} because the prediction error is too large")
    undecided = f" ({'; '.join(details)})" if details else ""
    kinds = rows.loc[rows["verdict"] == NOT_TESTED, "kind"].value_counts()
    reasons = f" ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})" if len(kinds) else ""
    theories = rows["theory"].value_counts() if len(rows) else {}
    yield (
        f"{counts.get(AGREES, 0)} of {len(rows)} layers (each quantity and image counted "
        f"separately) agree within a factor of {margin:g}{differ}, "
        f"{counts.get(DISAGREES, 0)} disagree, {counts.get(UNDECIDED, 0)} are undecided"
        f"{undecided}, {counts.get(NOT_TESTED, 0)} are not tested{reasons}. "
        f"Layers by theory: {', '.join(f'{theory} ({n})' for theory, n in theories.items())}."
    )


def _step_sentence(rows: pd.DataFrame) -> Iterator[str]:
    steps = rows.loc[rows["step_p"].notna(), "step_verdict"].value_counts()
    if len(steps):
        yield (
            f"{steps.get(AGREES, 0)} of {steps.sum()} steps from one layer to the next agree, "
            f"{steps.get(DISAGREES, 0)} disagree, {steps.get(UNDECIDED, 0)} are undecided "
            "(a step varies less between draws than a layer, so its test has more power)."
        )


def _spread_sentence(rows: pd.DataFrame, level: float) -> Iterator[str]:
    ratios = rows["sd_ratio"].dropna() if len(rows) else []
    if len(ratios):
        low, median, high = np.quantile(ratios, [0.1, 0.5, 0.9])
        significant = (rows["spread_p_holm"] <= level).sum()
        yield (
            "Standard deviation of log moments over the draws, measured / predicted: median "
            f"{median:.2f} (80 % of layers between {low:.2f} and {high:.2f}); significantly "
            f"different from 1 in {significant} of {len(ratios)} layers."
        )


def _interval_sentences(intervals: pd.DataFrame) -> Iterator[str]:
    split = set(intervals["width"]) == {"all", "wide", "narrow"} if len(intervals) else False
    for row in intervals.to_dict("records"):
        if row["width"] != "all" and not split:
            continue  # same rows as `all`
        networks = {
            "all": "",
            "wide": ", networks with 64 or more channels",
            "narrow": ", narrower networks",
        }
        yield (
            f"Predicted 95 % intervals, {row['direction']}{networks[row['width']]}: "
            f"{row['coverage']:.1%} of draws are inside (95 % confidence interval "
            f"{row['low']:.1%} to {row['high']:.1%}, clustered; {row['draws']:,} draws of "
            f"{plural(row['settings'], 'setting')}); median half-width: a factor of "
            f"{row['factor']:.2f}."
        )


def _disagreement_sentences(rows: pd.DataFrame, settings: pd.DataFrame) -> Iterator[str]:
    """Name each setting that disagrees, with its most significant layer."""
    for setting in settings.index[settings["outcome"] == DISAGREES]:
        setting_rows = rows[(rows["setting"] == setting)]
        disagreeing = setting_rows[setting_rows["verdict"] == DISAGREES]
        p_values = disagreeing[["p_holm", "step_p_holm"]].min(axis=1).fillna(0)
        worst = disagreeing.loc[p_values.idxmin()]
        yield (
            f"Disagrees: {worst['label']}: {len(disagreeing)} of {len(setting_rows)} layers; most "
            f"significant: {worst['quantity']} of layer {worst['layer']} ({worst['layer_name']}, "
            f"image {worst['image']}): {_describe_disagreement(worst)}."
        )


def _describe_disagreement(row: pd.Series) -> str:
    if row["kind"] == "zero":
        measured = row["mean"] * row["scale"]
        return f"measured {measured:.3g}, {row['theory']} predicts {row['value']:.3g}"
    if row["kind"] == "constant":
        return (
            f"every draw is {np.exp(row['log_ratio']):.3g} times the prediction of {row['theory']}"
        )
    if row["test"] == "linear":
        unit = "" if row["quantity"] == "input_correlation" else ", divided by the predicted RMS"
        return f"measured - {row['theory']}{unit}: {_with_error(row, 'log_ratio')}"
    # Report the change from the layer before if it is more significant than the layer's moment.
    if not row["p_holm"] <= row["step_p_holm"] and not np.isnan(row["step_p_holm"]):
        return (
            f"change of log(measured / {row['theory']}) from the layer before: "
            f"{_with_error(row, 'step')}"
        )
    return f"log(measured / {row['theory']}) = {_with_error(row, 'log_ratio')}"


def _with_error(row: pd.Series, column: str) -> str:
    return f"{row[column]:+.3g} (se {row[f'{column}_se']:.2g})"


def summarize_with_paths(results: Results, comparisons: Sequence[TheoryComparison]) -> list[str]:
    """Return `summarize_findings` and a line with the paths of the tables."""
    return [
        *summarize_findings(results, comparisons),
        f"Tables of the sweep: {results.folder.root}/. "
        f"Predictions: {results.folder.table('predictions')}/. "
        "To save the layer tables above, add --csv FILE.",
    ]


def summarize_findings(results: Results, comparisons: Sequence[TheoryComparison]) -> list[str]:
    """Summarize each theory's distance from the measurements, and the results of training."""
    return [*_theory_sentences(comparisons), *_training_sentences(results, comparisons)]


def _theory_sentences(comparisons: Sequence[TheoryComparison]) -> list[str]:
    tables = [(c.setting.label, layer_table(c)) for c in comparisons if c.unpredicted is None]
    sentences = []
    for theory in THEORIES:
        ratios = [
            (row[f"measured/{theory}"], row["layer"], label)
            for label, frame in tables
            for row in frame.to_dict("records")
        ]
        distances = [_log_distance(ratio) for ratio, _, _ in ratios]
        if np.isnan(distances).all():  # no ratios, or all are 0/0
            continue
        near = sum(distance < np.log(NEAR_FACTOR) for distance in distances)
        ratio, layer, label = ratios[int(np.nanargmax(distances))]
        sentences.append(
            f"{THEORY_LABELS[theory]} is within a factor of {NEAR_FACTOR} of the measured second "
            f"moment in {near} of {len(ratios)} layers; the largest error is at layer {layer} of "
            f"{label}, where measured / predicted is {ratio:.3g}."
        )
    return [*sentences, *_unpredicted_sentences(comparisons)]


def _unpredicted_sentences(comparisons: Sequence[TheoryComparison]) -> list[str]:
    """List the reasons for missing predictions, each reason once."""
    reasons: dict[str, list[str]] = {}
    for comparison in comparisons:
        if comparison.unpredicted:
            reasons.setdefault(comparison.unpredicted, []).append(comparison.setting.label)
    n_more = {reason: len(labels) - 1 for reason, labels in reasons.items()}
    return [
        f"{labels[0]}{f' and {n_more[reason]} more' if n_more[reason] else ''}: {reason}."
        for reason, labels in reasons.items()
    ]


def _log_distance(ratio: float) -> float:
    """Return |log ratio|; infinite if the measured or the predicted moment is 0."""
    with np.errstate(divide="ignore"):
        return abs(float(np.log(ratio)))


def _training_sentences(results: Results, comparisons: Sequence[TheoryComparison]) -> list[str]:
    return [
        *_accuracy_sentences(results.cells, comparisons),
        *_divergence_sentences(results.cells),
    ]


def _accuracy_sentences(cells: pd.DataFrame, comparisons: Sequence[TheoryComparison]) -> list[str]:
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
        return []  # regression, nothing trained, or every run failed or diverged
    (high, best), (low, worst) = max(scores), min(scores)
    lowest = (
        f"; lowest of the {len(scores)} settings, each with its best options: "
        f"{low:.1%} with {worst}"
    )
    return [
        f"Best test accuracy (mean over seeds): {high:.1%} with {best}"
        f"{lowest if len(scores) > 1 else ''}."
    ]


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
    n_classes = build_cell(comparison.setting.config).data.n_classes
    return 1 / n_classes if n_classes else float("nan")


def _divergence_sentences(cells: pd.DataFrame) -> list[str]:
    diverged = cells[cells.outcome == "diverged"]
    if diverged.empty:
        return []
    first = diverged.loc[diverged.outcome_step.idxmin()]
    return [
        f"{len(diverged)} of {len(cells)} cells diverged (the earliest at step "
        f"{int(first.outcome_step)}: {first.outcome_reason} in {first.outcome_tensor})."
    ]
