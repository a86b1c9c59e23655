"""Details of the verdicts in sentences: steps, spread, intervals, and every disagreement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.compare.tables import plural
from analysis.summary import THEORY_LABELS, largest_error, theory_distances
from analysis.theory_comparison import TheoryComparison
from analysis.verdicts import count_verdicts
from fanin.statistics.agreement import AGREES, DISAGREES, UNDECIDED


def describe_verdicts(
    comparisons: Sequence[TheoryComparison],
    rows: pd.DataFrame,
    intervals: pd.DataFrame,
    by_method: pd.DataFrame,
    *,
    margin: float,
    level: float,
) -> list[str]:
    """Describe significance, steps, spread, intervals, theories and disagreements in sentences.

    Parameters
    ----------
    comparisons
        All settings of a sweep.
    rows, intervals, by_method
        Their `compute_verdicts` (`analysis.verdicts`), `interval_coverage` and `coverage_by`
        (`analysis.coverage`).
    margin, level
        The arguments of `compute_verdicts`.
    """
    return [
        *_significance_sentence(rows, margin, level),
        *_step_sentence(rows),
        *_spread_sentence(rows, level),
        *_interval_sentences(intervals),
        *_calibration_sentences(by_method),
        *_largest_error_sentences(comparisons),
        *_disagreement_sentences(rows),
    ]


def _significance_sentence(rows: pd.DataFrame, margin: float, level: float) -> Iterator[str]:
    agrees = rows[rows["verdict"] == AGREES]
    differing = (agrees["p_holm"] <= level).sum() if len(agrees) else 0
    if differing:
        yield (
            f"{differing} of the {len(agrees)} layers that agree within a factor of {margin:g} "
            "differ significantly from their prediction, by less than that."
        )
    if len(rows):
        theories = rows["theory"].value_counts()
        yield f"Layers by theory: {', '.join(f'{theory} ({n})' for theory, n in theories.items())}."


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
            f"{row['low']:.1%} to {row['high']:.1%}, which allows for dependent draws; "
            f"{row['draws']:,} draws of "
            f"{plural(row['settings'], 'setting')}); median half-width: a factor of "
            f"{row['factor']:.2f}."
        )


def _calibration_sentences(by_method: pd.DataFrame) -> Iterator[str]:
    for row in by_method.to_dict("records"):
        p = "not available" if np.isnan(row["pit_p"]) else f"{row['pit_p']:.2g}"
        yield (
            f"Method {row['method']}, {row['direction']} ({row['layers']:,} layers): "
            f"{row['coverage']:.1%} of draws inside ({row['low']:.1%} to {row['high']:.1%}); "
            f"predicted / measured standard deviation {row['sd_ratio']:.2f} (0.9 to 1.1 expected); "
            f"probability integral transform: distance {row['pit_distance']:.3f} from uniform "
            f"(p = {p}, which allows for dependent draws)."
        )


def _largest_error_sentences(comparisons: Sequence[TheoryComparison]) -> Iterator[str]:
    for theory, ratios in theory_distances(comparisons).items():
        ratio, layer, label = largest_error(ratios)
        yield (
            f"The largest error of {THEORY_LABELS[theory]} is at layer {layer} of {label}, where "
            f"measured / predicted is {ratio:.3g}."
        )


def _disagreement_sentences(rows: pd.DataFrame) -> Iterator[str]:
    """Name each setting that disagrees, with its most significant layer."""
    settings = count_verdicts(rows)
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
    # Report the step if it is more significant than the layer itself.
    if not row["p_holm"] <= row["step_p_holm"] and not np.isnan(row["step_p_holm"]):
        return (
            f"change of log(measured / {row['theory']}) from the layer before: "
            f"{_with_error(row, 'step')}"
        )
    return f"log(measured / {row['theory']}) = {_with_error(row, 'log_ratio')}"


def _with_error(row: pd.Series, column: str) -> str:
    return f"{row[column]:+.3g} (se {row[f'{column}_se']:.2g})"
