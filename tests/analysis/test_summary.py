"""Tests of the summary sentences."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from simulated_sweep import simulated

from analysis import Results
from analysis import coverage as coverage_module
from analysis.coverage import coverage_by, interval_coverage
from analysis.summary import NEAR_FACTOR, describe_files, summarize_sweep
from analysis.theory_comparison import TheoryComparison, compare_to_theory, layer_table
from analysis.verdict_details import describe_verdicts
from analysis.verdicts import compute_verdicts

Sweep = Callable[..., Results]
PERCENT = r"([\d.]+)%"
LEVEL = 0.05


@pytest.fixture(autouse=True)
def widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace `narrowest_width`, because simulated settings have no network."""
    monkeypatch.setattr(coverage_module, "narrowest_width", lambda config: 64)


def summarize(results: Results, sweep: list[TheoryComparison], margin: float = 1.1) -> list[str]:
    rows = compute_verdicts(sweep, margin=margin)
    by_method = coverage_by(sweep, rows)
    return summarize_sweep(results, sweep, rows, by_method, margin=margin, level=LEVEL)


def _summarize(sweep: list[TheoryComparison], margin: float = 1.1) -> list[str]:
    """Summarize simulated settings, which trained nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.summary.summarize_training", lambda *_: [])
        return summarize(None, sweep, margin)  # type: ignore[arg-type]


def _settings(sweep: list[TheoryComparison], margin: float = 1.1) -> str:
    """Return the sentence that counts settings."""
    return _line(_summarize(sweep, margin), "Every layer agrees")


def _describe(sweep: list[TheoryComparison]) -> str:
    rows = compute_verdicts(sweep)
    tables = interval_coverage(sweep, rows), coverage_by(sweep, rows)
    return "\n".join(describe_verdicts(sweep, rows, *tables, margin=1.1, level=LEVEL))


def test_settings_are_counted_by_outcome() -> None:
    sweep = simulated(6, off={(1, "preact_m2", 2): 30.0})
    unpredicted = dataclasses.replace(sweep[5], predicted=pd.DataFrame(), unpredicted="why")
    zeros = dataclasses.replace(
        sweep[4],
        draws=sweep[4].draws.assign(value=0.0),
        predicted=sweep[4].predicted.assign(value=0.0, log_sd=np.nan),
    )
    lines = _summarize([*sweep[:4], zeros, unpredicted], margin=3)
    line, layers = _line(lines, "Every layer agrees"), _line(lines, "Of ")
    assert line.startswith("Every layer agrees with theory within a factor of 3 in 3 of 6 settings")
    assert "no layer disagrees in 0 others, " in line
    assert "and layers disagree in 1, most strongly layer fc" in line
    assert line.endswith(
        "; not tested: 1 without a prediction, 1 with only constant, zero or overflowed layers."
    )
    assert "16 cannot be tested (16 zero)" in layers
    undecided = _settings(sweep[2:4], margin=1.001)
    assert " in 0 of 2 settings (" in undecided
    assert "no layer disagrees in 2 others (some layers are undecided or simulated)" in undecided
    assert undecided.endswith("and layers disagree in 0.")


@pytest.mark.parametrize(("factor", "direction"), [(30.0, "as large as"), (1 / 30, "smaller than")])
def test_the_worst_layer_is_named_with_its_factor(factor: float, direction: str) -> None:
    sweep = simulated(4, off={(2, "preact_m2", 3): factor, (1, "vjp_m2", 2): 4.0})
    line = _settings(sweep)
    match = re.search(
        r"most strongly layer fc([34]) of net 2: the mean square of the forward signal "
        rf"\(preact_m2\) is ([\d.]+) times {direction} predicted",
        line,
    )
    assert match is not None
    # 64 draws with a standard deviation below 0.5: four standard errors of the logarithm.
    assert float(match[2]) == pytest.approx(30, rel=4 * 0.5 / 8)


def test_a_measured_zero_is_the_worst_disagreement() -> None:
    sweep = simulated(3, off={(1, "preact_m2", 2): 30.0})
    draws = sweep[2].draws
    dead = (draws.layer == 2) & (draws.quantity == "preact_m2") & (draws.image == 0)
    sweep[2] = dataclasses.replace(sweep[2], draws=draws.assign(value=draws.value.mask(dead, 0.0)))
    worst = "layer fc2 of net 2: the mean square of the forward signal (preact_m2) is 0 instead"
    assert f"{worst} of 1" in _settings(sweep)


def test_a_step_that_disagrees_is_relative_to_the_layer_before() -> None:
    """The layer's own error is within its spread, but its ratio to the layer before is off."""
    sweep = simulated(2, depth=40, width=64, off={(1, "preact_m2", 40): 1.25})
    rows = compute_verdicts(sweep)
    wrong = rows[rows.verdict == "disagrees"]
    assert set(wrong.layer) == {40}
    assert (wrong.p_holm > LEVEL).all()
    line = _settings(sweep)
    match = re.search(r"([\d.]+) times as large as predicted, relative to the layer before", line)
    assert match is not None
    # The step has the spread of one layer: a log-variance near 5/64, over 64 draws.
    assert float(match[1]) == pytest.approx(1.25, rel=4 * (5 / 64 / 64) ** 0.5)


def test_undecided_layers_are_counted_by_reason() -> None:
    sweep = simulated(2)
    imprecise = sweep[1].predicted.assign(sampling_se=0.5)
    sweep[1] = dataclasses.replace(sweep[1], predicted=imprecise)
    rows = compute_verdicts(sweep, margin=1.02)
    undecided = rows[rows.verdict == "undecided"]
    few, imprecise_rows = np.isfinite(undecided.draws_needed), np.isinf(undecided.draws_needed)
    assert few.any()
    assert imprecise_rows.any()
    line = _line(_summarize(sweep, margin=1.02), "Of ")
    assert f"Of {len(rows)} comparisons" in line
    assert f"{len(undecided)} are undecided ({few.sum()} need more draws of the weights, " in line
    assert f"; {imprecise_rows.sum()} need a more precise prediction)" in line


def test_layers_are_counted_by_method_and_simulated_ones_are_not_confirmed() -> None:
    methods = ["exact", "first_order", "sampled", "simulated"]
    lines = _summarize(simulated(3, method=methods), margin=3)
    counts = _line(lines, "Of ")
    assert "36 agree with theory, 12 agree with simulated networks, 0 disagree" in counts
    line = _line(lines, "Predictions by method: ")
    assert re.search(r"12 exact, 12 first_order \(.*\), 12 sampled \(.*\), 12 simulated \(", line)
    assert "so the 12 that agree do not test the theory" in line
    settings = _line(lines, "Every layer agrees")
    assert " in 0 of 3 settings" in settings
    assert "no layer disagrees in 3 others" in settings


def test_without_simulated_layers_nothing_is_said_about_them() -> None:
    text = "\n".join(_summarize(simulated(3), margin=3))
    assert "Predictions by method: 48 first_order (" in text
    assert "simulated" not in text
    assert "Every layer agrees with theory within a factor of 3 in 3 of 3 settings" in text


def test_predictions_without_a_method_are_unknown() -> None:
    line = _line(_summarize(simulated(2, method=None)), "Predictions by method: ")
    assert line == (
        "Predictions by method: 32 unknown; the stored predictions do not record their method."
    )


def test_a_wrong_spread_of_a_method_is_stated() -> None:
    start = "The predicted 95 % intervals"
    correct = _line(_summarize(simulated(20, width=256)), start)
    assert "wrong" not in correct
    wrong = _line(_summarize(simulated(20, width=256, shrink=0.5)), start)
    assert wrong.endswith(
        "the predicted distribution is wrong for: first_order forward, first_order backward."
    )


def test_a_summary_has_at_most_seven_sentences(
    small: Results, comparisons: list[TheoryComparison]
) -> None:
    lines = summarize(small, comparisons)
    assert len(lines) <= 7  # and one on the files
    assert all(line.endswith(".") and ". " not in line for line in lines)


def test_the_files_are_named(small: Results) -> None:
    line = describe_files(small, tables=False)
    assert "--tables" in line
    assert str(small.folder.table("predictions")) in line
    assert "--tables" not in describe_files(small, tables=True)


def test_a_disagreement_names_the_most_significant_layer() -> None:
    text = _describe(simulated(4, off={(2, "preact_m2", 3): 2.0}))
    (line,) = (line for line in text.splitlines() if line.startswith("Disagrees"))
    assert line.startswith(
        "Disagrees: net 2: 4 of 16 layers; most significant: preact_m2 of layer 3 (fc3"
    )
    ratio, se = (float(x) for x in re.findall(r"([+-][\d.]+) \(se ([\d.]+)\)", line)[0])
    assert ratio == pytest.approx(np.log(2), abs=4 * se)


def test_coverage_is_stated_with_its_interval_and_width() -> None:
    text = _describe(simulated(10))
    (line,) = (
        line for line in text.splitlines() if line.startswith("Predicted 95 % intervals, backward:")
    )
    share, low, high = (float(x) for x in re.findall(r"([\d.]+)%", line))
    assert low < share < high
    assert "5,120 draws of 10 settings" in line
    # The median of four layers: exp(1.96 (sqrt(7/64) + sqrt(12/64)) / 2).
    assert "a factor of 2.11" in line


def test_the_calibration_of_each_method_is_stated() -> None:
    line = _line(_describe(simulated(10)).splitlines(), "Method first_order, backward (80 layers)")
    match = re.search(r"deviation ([\d.]+) .*distance ([\d.]+) from uniform \(p = ([\d.]+),", line)
    assert match is not None
    ratio, distance, p = map(float, match.groups())
    assert 0.9 < ratio < 1.1
    assert 0 < distance < 0.2
    assert 0 < p <= 1


def test_a_wrong_spread_is_stated() -> None:
    correct = _describe(simulated(5))
    assert "significantly different from 1 in 0 of 80 layers" in correct
    wrong = _describe(simulated(5, shrink=0.5))
    match = re.search(r"median ([\d.]+).*in (\d+) of 80 layers", wrong)
    assert match is not None
    assert float(match[1]) == pytest.approx(2, abs=0.1)
    assert int(match[2]) > 75


def test_a_sweep_without_predictions_is_not_tested() -> None:
    (comparison,) = simulated(1)
    sweep = [dataclasses.replace(comparison, predicted=pd.DataFrame(), unpredicted="why")]
    lines = _summarize(sweep)
    assert len(lines) == 2
    assert " in 0 of 1 settings" in lines[0]
    assert lines[0].endswith("; not tested: 1 without a prediction.")
    assert lines[1] == "net 0: why."
    assert _describe(sweep) == ""


def _line(lines: list[str], start: str) -> str:
    (line,) = (line for line in lines if line.startswith(start))
    return line


@pytest.mark.parametrize(
    ("theory", "name"), [("he", "the He/Glorot formula"), ("mean_field", "mean-field theory")]
)
def test_the_distance_of_each_theory_is_stated(
    small: Results, comparisons: list[TheoryComparison], theory: str, name: str
) -> None:
    ratios = {
        (c.setting.label, row.layer): row[f"measured/{theory}"]
        for c in comparisons
        if c.unpredicted is None
        for _, row in layer_table(c).iterrows()
    }
    near = sum(1 / NEAR_FACTOR < ratio < NEAR_FACTOR for ratio in ratios.values())
    (label, layer), worst = max(ratios.items(), key=lambda item: abs(math.log(item[1])))
    line = _line(summarize(small, comparisons), "Theory predicts the signal")
    assert f" of {len(ratios)} layers (" in line
    match = re.search(rf"; {name} does so in {near} \(largest error: (\S+) times\)", line)
    assert match is not None
    size = float(match[1].replace("10^", "1e").replace(",", ""))
    # Rounded to three digits, or to a power of ten.
    rounding = 0.5 if "^" in match[1] else 0.005
    assert math.log10(size) == pytest.approx(abs(math.log10(worst)), abs=rounding)
    line = _line(_describe(comparisons).splitlines(), f"The largest error of {name} is at layer")
    assert line.endswith(
        f" at layer {layer} of {label}, where measured / predicted is {worst:.3g}."
    )


def test_the_reason_for_missing_predictions_is_stated_once(
    small: Results, comparisons: list[TheoryComparison]
) -> None:
    without = [c.setting.label for c in comparisons if c.unpredicted]
    assert len(without) == 4
    line = _line(summarize(small, comparisons), f"{without[0]} and 3 more: ")
    assert "Lsuv declares no moments" in line


def test_best_and_worst_setting_by_accuracy(
    small: Results, comparisons: list[TheoryComparison]
) -> None:
    cells = small.cells[small.cells.outcome.isin(["ok", "diverged"])].copy()
    cells.loc[cells.outcome == "diverged", "test_accuracy"] = 0.1
    keys = ["model", "activation", "init", "optim.lr"]
    means = cells.groupby(keys, observed=True).test_accuracy.mean()
    at_best = means.groupby(["model", "activation", "init"], observed=True).max()
    line = _line(summarize(small, comparisons), "Best test accuracy")
    high, low = (float(number) for number in re.findall(PERCENT, line))
    # Printed to a tenth of a percent.
    assert high == pytest.approx(100 * at_best.max(), abs=0.05 + 1e-9)
    assert low == pytest.approx(100 * at_best.min(), abs=0.05 + 1e-9)
    model, activation, init = at_best.idxmax()
    best = line.partition(";")[0]
    assert model in best
    assert f"{activation} {init}" in best
    assert f"at optim.lr={means[model, activation, init].idxmax()}" in best


def _with_cells(results: Results, **columns: object) -> Results:
    return dataclasses.replace(results, cells=results.cells.assign(**columns))


def test_a_diverged_run_scores_chance(small: Results, comparisons: list[TheoryComparison]) -> None:
    """One seed scores 50 %, the other diverged: the mean of 50 % and 10 % is 30 %."""
    odd = small.cells.seed == 1
    results = _with_cells(
        small,
        outcome=np.where(odd, "diverged", "ok"),
        test_accuracy=np.where(odd, np.nan, 0.5),
        outcome_step=np.where(odd, 2, np.nan),
        outcome_reason="nan",
        outcome_tensor="loss",
    )
    lines = summarize(results, comparisons)
    assert re.findall(PERCENT, _line(lines, "Best test accuracy")) == ["30.0", "30.0"]
    line = _line(lines, "Best test accuracy")
    assert line.endswith("; 40 of 80 training runs diverged (the earliest at step 2: nan in loss).")


def test_a_failed_run_is_left_out_of_the_accuracy(
    small: Results, comparisons: list[TheoryComparison]
) -> None:
    odd = small.cells.seed == 1
    outcome, accuracy = np.where(odd, "error", "ok"), np.where(odd, np.nan, 0.5)
    lines = summarize(_with_cells(small, outcome=outcome, test_accuracy=accuracy), comparisons)
    assert re.findall(PERCENT, _line(lines, "Best test accuracy")) == ["50.0", "50.0"]


def test_the_earliest_divergence_is_stated(
    small: Results, comparisons: list[TheoryComparison]
) -> None:
    steps = np.arange(len(small.cells), 0, -1)
    reasons = [f"inf {step}" for step in steps]
    results = _with_cells(
        small, outcome="diverged", outcome_step=steps, outcome_reason=reasons, outcome_tensor="w"
    )
    line = _line(summarize(results, comparisons), "Best test accuracy")
    assert line.endswith("; 80 of 80 training runs diverged (the earliest at step 1: inf 1 in w).")


def test_an_infinite_ratio_is_the_largest_error(
    comparisons: list[TheoryComparison], small: Results
) -> None:
    comparison = next(c for c in comparisons if c.unpredicted is None)
    draws = comparison.draws.assign(
        value=np.where(comparison.draws.layer == 2, np.inf, comparison.draws.value)
    )
    lines = summarize(small, [dataclasses.replace(comparison, draws=draws)])
    line = _line(lines, "Theory predicts the signal")
    assert "(largest error: infinitely many times, layer 2 of " in line
    broken = [dataclasses.replace(comparison, draws=draws)]
    line = _line(_describe(broken).splitlines(), "The largest error of mean-field theory")
    assert line.endswith(
        f"layer 2 of {comparison.setting.label}, where measured / predicted is inf."
    )


def test_training_configs_are_not_averaged(sweep: Sweep) -> None:
    """The best accuracy belongs to one optimizer and learning rate, not to a mean over them."""
    results = sweep("optimizers", "optim=sgd,adam", "optim.lr=0.001,0.1", "seed=range(2)")
    comparisons = compare_to_theory(results)
    assert len(comparisons) == 1
    means = results.cells.groupby(["optim", "optim.lr"], observed=True).test_accuracy.mean()
    line = _line(summarize(results, comparisons), "Best test accuracy")
    assert re.findall(PERCENT, line) == [f"{100 * means.max():.1f}"]  # no lowest with one setting
    optimizer, rate = means.idxmax()
    assert f"optim={optimizer} optim.lr={rate}" in line


def test_keys_in_the_setting_label_are_not_repeated(sweep: Sweep) -> None:
    axes = ("loss=cross_entropy,mse", "train.dtype=float32,float64", "optim.lr=0.01,0.1")
    results = sweep("losses", *axes)
    line = _line(summarize(results, compare_to_theory(results)), "Best test accuracy")
    training = re.findall(r" with (?:cross_entropy|mse) dtype=float\d\d at (\S+)", line)
    assert [label.partition("=")[0] for label in training] == ["optim.lr", "optim.lr"]
    assert "loss=" not in line


def test_a_regression_has_no_accuracy(sweep: Sweep) -> None:
    noise = ("data=gaussian", "data.task=regression", "data.side=null", "data.image_side=14")
    results = sweep("regression", *noise, "loss=mse")
    assert results.cells.test_accuracy.isna().all()
    lines = summarize(results, compare_to_theory(results))
    assert not any("accuracy" in line for line in lines)
    assert "; mean-field theory does so in " in _line(lines, "Theory predicts the signal")


def test_a_sweep_without_training_has_no_accuracy(sweep: Sweep) -> None:
    results = sweep("probed", "train.steps=0", "init=he_normal,zeros")
    lines = summarize(results, compare_to_theory(results))
    assert not any("accuracy" in line or "diverged" in line for line in lines)
    assert "; the He/Glorot formula does so in " in _line(lines, "Theory predicts the signal")


def test_zeros_have_no_theory_sentence(sweep: Sweep) -> None:
    results = sweep("zeros", "train.steps=0", "init=zeros")
    lines = summarize(results, compare_to_theory(results))
    assert not any("predicts the signal" in line for line in lines)
    assert "1 with only constant, zero or overflowed layers" in lines[0]


def test_lsuv_states_the_reason_for_no_prediction(sweep: Sweep) -> None:
    results = sweep("lsuv", "train.steps=0", "init=lsuv")
    settings, reason = summarize(results, compare_to_theory(results))
    assert "1 without a prediction" in settings
    assert reason == (
        "all cells: no prediction for layer conv1: Lsuv declares no moments of the weights, which "
        "theory needs."
    )


def test_a_sweep_with_only_diverged_cells_has_no_accuracy(sweep: Sweep) -> None:
    results = sweep("diverged", "optim.lr=1e30", "seed=range(2)")
    assert set(results.cells.outcome) == {"diverged"}
    lines = summarize(results, compare_to_theory(results))
    assert not any("accuracy" in line for line in lines)
    steps = pd.to_numeric(results.cells.outcome_step)
    assert _line(lines, "2 of 2 training runs diverged").startswith(
        f"2 of 2 training runs diverged (the earliest at step {steps.min()}: "
    )
