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
from analysis import verdicts as verdicts_module
from analysis.summary import NEAR_FACTOR, summarize_verdicts, summarize_with_paths
from analysis.theory_comparison import TheoryComparison, compare_to_theory, layer_table
from analysis.verdicts import compute_verdicts, interval_coverage

Sweep = Callable[..., Results]
PERCENT = r"([\d.]+)%"


@pytest.fixture(autouse=True)
def widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace `narrowest_width`, because simulated settings have no network."""
    monkeypatch.setattr(verdicts_module, "narrowest_width", lambda config: 64)


def _summarize(sweep: list[TheoryComparison]) -> str:
    rows = compute_verdicts(sweep)
    return "\n".join(
        summarize_verdicts(sweep, rows, interval_coverage(sweep, rows), margin=1.1, level=0.05)
    )


def test_settings_are_explained_disagree_or_are_not_tested() -> None:
    sweep = simulated(6, off={(1, "preact_m2", 2): 3.0})
    unpredicted = dataclasses.replace(sweep[5], predicted=pd.DataFrame(), unpredicted="why")
    zeros = dataclasses.replace(
        sweep[4],
        draws=sweep[4].draws.assign(value=0.0),
        predicted=sweep[4].predicted.assign(value=0.0, log_sd=np.nan),
    )
    text = _summarize([*sweep[:4], zeros, unpredicted])
    assert "No layer disagrees with theory in 3 of 6 settings " in text
    assert "disagrees in 1 setting. Not tested: 1 without a prediction, 1 with only" in text
    assert "16 are not tested (16 zero)" in text


def test_a_disagreement_names_the_most_significant_layer() -> None:
    text = _summarize(simulated(4, off={(2, "preact_m2", 3): 2.0}))
    (line,) = (line for line in text.splitlines() if line.startswith("Disagrees"))
    assert line.startswith(
        "Disagrees: net 2: 4 of 16 layers; most significant: preact_m2 of layer 3 (fc3"
    )
    ratio, se = (float(x) for x in re.findall(r"([+-][\d.]+) \(se ([\d.]+)\)", line)[0])
    assert ratio == pytest.approx(np.log(2), abs=4 * se)


def test_coverage_is_stated_with_its_interval_and_width() -> None:
    text = _summarize(simulated(10))
    (line,) = (
        line for line in text.splitlines() if line.startswith("Predicted 95 % intervals, backward:")
    )
    share, low, high = (float(x) for x in re.findall(r"([\d.]+)%", line))
    assert low < share < high
    assert "5,120 draws of 10 settings" in line
    # The median of four layers: exp(1.96 (sqrt(7/64) + sqrt(12/64)) / 2).
    assert "a factor of 2.11" in line


def test_a_wrong_spread_is_stated() -> None:
    correct = _summarize(simulated(5))
    assert "significantly different from 1 in 0 of 80 layers" in correct
    wrong = _summarize(simulated(5, shrink=0.5))
    match = re.search(r"median ([\d.]+).*in (\d+) of 80 layers", wrong)
    assert match is not None
    assert float(match[1]) == pytest.approx(2, abs=0.1)
    assert int(match[2]) > 75


def test_a_sweep_without_predictions_is_not_tested() -> None:
    (comparison,) = simulated(1)
    text = _summarize(
        [dataclasses.replace(comparison, predicted=pd.DataFrame(), unpredicted="why")]
    )
    assert "No layer disagrees with theory in 0" in text
    assert "Not tested: 1 without a prediction" in text


def _line(lines: list[str], start: str) -> str:
    (line,) = (line for line in lines if line.startswith(start))
    return line


@pytest.mark.parametrize(
    ("theory", "name"), [("he", "Theory `he`"), ("mean_field", "Theory `mean_field`")]
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
    line = _line(summarize_with_paths(small, comparisons), name)
    assert f"in {near} of {len(ratios)} layers" in line
    assert f"the largest error is at layer {layer} of {label}, " in line
    assert line.endswith(f"is {worst:.3g}.")


def test_the_reason_for_missing_predictions_is_stated_once(
    small: Results, comparisons: list[TheoryComparison]
) -> None:
    without = [c.setting.label for c in comparisons if c.unpredicted]
    assert len(without) == 4
    line = _line(summarize_with_paths(small, comparisons), f"{without[0]} and 3 more: ")
    assert "Lsuv declares no moments" in line


def test_best_and_worst_setting_by_accuracy(
    small: Results, comparisons: list[TheoryComparison]
) -> None:
    cells = small.cells[small.cells.outcome.isin(["ok", "diverged"])].copy()
    cells.loc[cells.outcome == "diverged", "test_accuracy"] = 0.1
    keys = ["model", "activation", "init", "optim.lr"]
    means = cells.groupby(keys, observed=True).test_accuracy.mean()
    at_best = means.groupby(["model", "activation", "init"], observed=True).max()
    line = _line(summarize_with_paths(small, comparisons), "Best test accuracy")
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
    lines = summarize_with_paths(results, comparisons)
    assert re.findall(PERCENT, _line(lines, "Best test accuracy")) == ["30.0", "30.0"]
    assert "40 of 80 cells diverged (the earliest at step 2: nan in loss)." in lines


def test_a_failed_run_is_left_out_of_the_accuracy(
    small: Results, comparisons: list[TheoryComparison]
) -> None:
    odd = small.cells.seed == 1
    outcome, accuracy = np.where(odd, "error", "ok"), np.where(odd, np.nan, 0.5)
    lines = summarize_with_paths(
        _with_cells(small, outcome=outcome, test_accuracy=accuracy), comparisons
    )
    assert re.findall(PERCENT, _line(lines, "Best test accuracy")) == ["50.0", "50.0"]


def test_the_earliest_divergence_is_stated(
    small: Results, comparisons: list[TheoryComparison]
) -> None:
    steps = np.arange(len(small.cells), 0, -1)
    reasons = [f"inf {step}" for step in steps]
    results = _with_cells(
        small, outcome="diverged", outcome_step=steps, outcome_reason=reasons, outcome_tensor="w"
    )
    assert _line(summarize_with_paths(results, comparisons), "80 of 80").endswith(
        "step 1: inf 1 in w)."
    )


def test_an_infinite_ratio_is_the_largest_error(
    comparisons: list[TheoryComparison], small: Results
) -> None:
    comparison = next(c for c in comparisons if c.unpredicted is None)
    draws = comparison.draws.assign(
        value=np.where(comparison.draws.layer == 2, np.inf, comparison.draws.value)
    )
    lines = summarize_with_paths(small, [dataclasses.replace(comparison, draws=draws)])
    line = _line(lines, "Theory `mean_field`")
    assert line.endswith(
        f"layer 2 of {comparison.setting.label}, where measured / predicted is inf."
    )


def test_training_configs_are_not_averaged(sweep: Sweep) -> None:
    """The best accuracy belongs to one optimizer and learning rate, not to a mean over them."""
    results = sweep("optimizers", "optim=sgd,adam", "optim.lr=0.001,0.1", "seed=range(2)")
    comparisons = compare_to_theory(results)
    assert len(comparisons) == 1
    means = results.cells.groupby(["optim", "optim.lr"], observed=True).test_accuracy.mean()
    line = _line(summarize_with_paths(results, comparisons), "Best test accuracy")
    assert re.findall(PERCENT, line) == [f"{100 * means.max():.1f}"]  # no lowest with one setting
    optimizer, rate = means.idxmax()
    assert f"optim={optimizer} optim.lr={rate}" in line


def test_keys_in_the_setting_label_are_not_repeated(sweep: Sweep) -> None:
    axes = ("loss=cross_entropy,mse", "train.dtype=float32,float64", "optim.lr=0.01,0.1")
    results = sweep("losses", *axes)
    line = _line(summarize_with_paths(results, compare_to_theory(results)), "Best test accuracy")
    training = re.findall(r" with (?:cross_entropy|mse) dtype=float\d\d at (\S+)", line)
    assert [label.partition("=")[0] for label in training] == ["optim.lr", "optim.lr"]
    assert "loss" not in line


def test_a_regression_has_no_accuracy(sweep: Sweep) -> None:
    noise = ("data=gaussian", "data.task=regression", "data.side=null", "data.image_side=14")
    results = sweep("regression", *noise, "loss=mse")
    assert results.cells.test_accuracy.isna().all()
    lines = summarize_with_paths(results, compare_to_theory(results))
    assert not any("accuracy" in line for line in lines)
    assert any(line.startswith("Theory `mean_field`") for line in lines)


def test_a_sweep_without_training_has_no_accuracy(sweep: Sweep) -> None:
    results = sweep("probed", "train.steps=0", "init=he_normal,zeros")
    lines = summarize_with_paths(results, compare_to_theory(results))
    assert not any("accuracy" in line or "diverged" in line for line in lines)
    assert any(line.startswith("Theory `he`") for line in lines)


def test_zeros_have_no_theory_sentences(sweep: Sweep) -> None:
    results = sweep("zeros", "train.steps=0", "init=zeros")
    (tables,) = summarize_with_paths(results, compare_to_theory(results))
    assert tables.startswith("Tables of the sweep: ")


def test_lsuv_states_the_reason_for_no_prediction(sweep: Sweep) -> None:
    results = sweep("lsuv", "train.steps=0", "init=lsuv")
    text, tables = summarize_with_paths(results, compare_to_theory(results))
    assert text == (
        "all cells: no prediction for layer conv1: Lsuv declares no moments of the weights, which "
        "theory needs."
    )
    assert tables.startswith("Tables of the sweep: ")


def test_a_sweep_with_only_diverged_cells_has_no_accuracy(sweep: Sweep) -> None:
    results = sweep("diverged", "optim.lr=1e30", "seed=range(2)")
    assert set(results.cells.outcome) == {"diverged"}
    lines = summarize_with_paths(results, compare_to_theory(results))
    assert not any("accuracy" in line for line in lines)
    steps = pd.to_numeric(results.cells.outcome_step)
    assert _line(lines, "2 of 2 cells diverged").startswith(
        f"2 of 2 cells diverged (the earliest at step {steps.min()}: "
    )
