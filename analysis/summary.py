"""Sentences that sum up a sweep: verdicts, how near each theory comes, and which cells trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.load import Results
from analysis.theory_comparison import TheoryComparison, layer_table
from analysis.verdicts import count_verdicts
from experiments.config.groups import UPDATES
from experiments.config.instantiate import TARGET
from experiments.schema import build_cell
from fanin.statistics.agreement import AGREES, DISAGREES, NOT_TESTED, UNDECIDED
from fanin.theory.predict import THEORIES

THEORY_LABELS = {
    "he": "The He/Glorot product formula",
    "mean_field": "Mean field",
    "field": "The Gaussian field",
    "finite_width": "The finite-width law",
}
# What decides how a network learns, beyond what a setting's label tells.
TRAINING = (*UPDATES, "train")
LABELED_KEY = "train.dtype"  # by the label
NEAR_FACTOR = 1.25  # "near" in the sentences: within this factor


def summarize_verdicts(
    comparisons: Sequence[TheoryComparison],
    rows: pd.DataFrame,
    intervals: pd.DataFrame,
    *,
    margin: float,
    level: float,
) -> list[str]:
    """Sentences: settings explained, layers by verdict, the spread, the intervals, what disagrees.

    Parameters
    ----------
    comparisons
        A sweep's.
    rows, intervals
        Their `analysis.verdicts.compute_verdicts` and `analysis.verdicts.interval_coverage`.
    margin, level
        That the verdicts were made at.
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
    """Say what would decide.

    >>> format_needed(1234.0), format_needed(float("inf"))
    ('needs 1,200', 'theory unsure')
    """
    if np.isnan(needed):
        return "undecided"
    return "theory unsure" if np.isinf(needed) else f"needs {_format_draws(needed)}"


def _format_draws(needed: float) -> str:
    return f"{float(f'{needed:.2g}'):,.0f}"


def _setting_sentence(
    comparisons: Sequence[TheoryComparison], settings: pd.DataFrame
) -> Iterator[str]:
    outcomes = settings["outcome"].value_counts()
    fully = ((settings["outcome"] == "explained") & (settings[UNDECIDED] == 0)).sum()
    unpredicted = len(comparisons) - len(settings)
    not_tested = outcomes.get(NOT_TESTED, 0)
    kinds = [
        f"{number} {what}"
        for number, what in (
            (unpredicted, "without a prediction"),
            (not_tested, "with nothing to test (constant, zero or overflowed)"),
        )
        if number
    ]
    yield (
        f"Of {len(comparisons)} settings, theory explains {outcomes.get('explained', 0)} "
        f"({fully} of them in every layer, the others have layers that are undecided) and "
        f"disagrees with {outcomes.get(DISAGREES, 0)}"
        f"{'; not tested: ' + ', '.join(kinds) if kinds else ''}."
    )


def _layer_sentence(rows: pd.DataFrame, margin: float, level: float) -> Iterator[str]:
    verdict = rows["verdict"].value_counts()
    agrees = rows[rows["verdict"] == AGREES]
    both = (agrees["p_holm"] <= level).sum()
    differ = f" ({both} of them differ beyond doubt, by less)" if both else ""
    needed = rows.loc[rows["verdict"] == UNDECIDED, "needed"].astype(float)
    told = []
    if np.isfinite(needed).any():
        about = _format_draws(needed[np.isfinite(needed)].median())
        told.append(f"median: about {about} draws would decide")
    if np.isinf(needed).any():
        told.append(f"for {np.isinf(needed).sum()} none would: theory's own sampling is too coarse")
    undecided = f" ({'; '.join(told)})" if told else ""
    kinds = rows.loc[rows["verdict"] == NOT_TESTED, "kind"].value_counts()
    why = f" ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})" if len(kinds) else ""
    theories = rows["theory"].value_counts() if len(rows) else {}
    yield (
        f"Of {len(rows)} layers, each of their quantities and images counted, "
        f"{verdict.get(AGREES, 0)} agree within a factor of {margin:g}{differ}, "
        f"{verdict.get(DISAGREES, 0)} disagree, {verdict.get(UNDECIDED, 0)} are undecided"
        f"{undecided}, {verdict.get(NOT_TESTED, 0)} are not tested{why}. "
        f"Held against: {', '.join(f'{theory} ({n})' for theory, n in theories.items())}."
    )


def _step_sentence(rows: pd.DataFrame) -> Iterator[str]:
    steps = rows.loc[rows["step_p"].notna(), "step_verdict"].value_counts()
    if len(steps):
        yield (
            f"Of {steps.sum()} steps from one layer to the next (less spread, so surer), "
            f"{steps.get(AGREES, 0)} agree, {steps.get(DISAGREES, 0)} disagree, "
            f"{steps.get(UNDECIDED, 0)} are undecided."
        )


def _spread_sentence(rows: pd.DataFrame, level: float) -> Iterator[str]:
    ratios = rows["sd_ratio"].dropna() if len(rows) else []
    if len(ratios):
        low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
        off = (rows["spread_p_holm"] <= level).sum()
        yield (
            f"Spread of a draw's log-moment, measured / predicted: median {middle:.2f} "
            f"(80 % between {low:.2f} and {high:.2f}); it differs from 1 beyond doubt in {off} of "
            f"{len(ratios)} layers."
        )


def _interval_sentences(intervals: pd.DataFrame) -> Iterator[str]:
    split = set(intervals["width"]) == {"all", "wide", "narrow"} if len(intervals) else False
    for row in intervals.to_dict("records"):
        if row["width"] != "all" and not split:
            continue  # all networks are of one kind
        nets = {"all": "", "wide": ", 64 channels and more", "narrow": ", narrower nets"}
        yield (
            f"95 % intervals, {row['direction']}{nets[row['width']]}: they hold "
            f"{row['coverage']:.1%} of draws (95 % interval {row['low']:.1%} to {row['high']:.1%}, "
            f"clustered; {row['draws']:,} draws of {row['settings']} settings); median width "
            f"a factor of {row['factor']:.2f} either way."
        )


def _disagreement_sentences(rows: pd.DataFrame, settings: pd.DataFrame) -> Iterator[str]:
    """Each setting that isn't explained, with the layer that disagrees most."""
    for setting in settings.index[settings["outcome"] == DISAGREES]:
        mine = rows[(rows["setting"] == setting)]
        off = mine[mine["verdict"] == DISAGREES]
        worst = off.loc[off[["p_holm", "step_p_holm"]].min(axis=1).fillna(0).idxmin()]
        yield (
            f"Disagrees: {worst['label']}: {len(off)} of {len(mine)} layers, surest "
            f"{worst['quantity']} of layer {worst['layer']} ({worst['layer_name']}, image "
            f"{worst['image']}): {_describe_disagreement(worst)}."
        )


def _describe_disagreement(row: pd.Series) -> str:
    if row["kind"] == "zero":
        measured = row["mean"] * row["scale"]
        return f"measured {measured:.3g}, {row['theory']} says {row['value']:.3g}"
    if row["kind"] == "constant":
        return f"every draw is {np.exp(row['log_ratio']):.3g} times what {row['theory']} says"
    if row["test"] == "linear":
        return f"off by {_with_error(row, 'log_ratio')} of its unit ({row['theory']})"
    # The step is told where it is what fails.
    if not row["p_holm"] <= row["step_p_holm"] and not np.isnan(row["step_p_holm"]):
        return f"from the layer before, log-ratio to {row['theory']} {_with_error(row, 'step')}"
    return f"log-ratio to {row['theory']} {_with_error(row, 'log_ratio')}"


def _with_error(row: pd.Series, column: str) -> str:
    return f"{row[column]:+.3g} (se {row[f'{column}_se']:.2g})"


def summarize_with_paths(results: Results, comparisons: Sequence[TheoryComparison]) -> list[str]:
    """Summarize what was `found`, and where the numbers are."""
    return [
        *summarize_findings(results, comparisons),
        f"Tables: {results.folder.root}/; every layer's numbers: the tables above "
        f"(--csv FILE keeps them), predictions: {results.folder.table('predictions')}/",
    ]


def summarize_findings(results: Results, comparisons: Sequence[TheoryComparison]) -> list[str]:
    """A few sentences: how near each theory comes, where it is furthest off, and who trained."""
    return [*_theory_sentences(comparisons), *_training_sentences(results, comparisons)]


def _theory_sentences(comparisons: Sequence[TheoryComparison]) -> list[str]:
    tables = [(c.setting.label, layer_table(c)) for c in comparisons if c.unpredicted is None]
    lines = []
    for theory in THEORIES:
        ratios = [
            (row[f"measured/{theory}"], row["layer"], label)
            for label, frame in tables
            for row in frame.to_dict("records")
        ]
        distances = [_distance(ratio) for ratio, _, _ in ratios]
        if np.isnan(distances).all():  # there are none, or all are 0/0
            continue
        near = sum(distance < np.log(NEAR_FACTOR) for distance in distances)
        ratio, layer, label = ratios[int(np.nanargmax(distances))]
        lines.append(
            f"{THEORY_LABELS[theory]} is within a factor of {NEAR_FACTOR} of the measured second moment in {near} "
            f"of {len(ratios)} layers; it is furthest off at layer {layer} of {label}, "
            f"where measured / predicted is {ratio:.3g}."
        )
    return [*lines, *_unpredicted_sentences(comparisons)]


def _unpredicted_sentences(comparisons: Sequence[TheoryComparison]) -> list[str]:
    """List why settings have no prediction, each reason once."""
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


def _training_sentences(results: Results, comparisons: Sequence[TheoryComparison]) -> list[str]:
    return [*_accuracy_sentences(results.cells, comparisons), *_divergence_sentences(results.cells)]


def _accuracy_sentences(cells: pd.DataFrame, comparisons: Sequence[TheoryComparison]) -> list[str]:
    """Best and worst setting by test accuracy, each trained the way that suits it best."""
    ways = _training_labels(cells)
    scores = []
    for comparison in comparisons:
        mine = cells[cells.cell_id.isin(comparison.setting.cell_ids)]
        # A diverged run answers as chance does.
        answered = mine.test_accuracy.mask(mine.outcome == "diverged", _chance_accuracy(comparison))
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


def _training_labels(cells: pd.DataFrame) -> pd.Series:
    """Describe how each cell trained, as far as that differs among the cells of the sweep."""
    keys = [
        key
        for key in cells
        if key.partition(".")[0] in TRAINING
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
        f"{int(first.outcome_step)}, {first.outcome_reason} in {first.outcome_tensor})."
    ]
