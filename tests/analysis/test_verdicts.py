"""Tests of verdicts on a sweep and of the coverage of predicted intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from relu_moments import relu_log_sd
from simulated_sweep import simulated

from analysis import Results
from analysis import coverage as coverage_module
from analysis.coverage import (
    coverage_by,
    interval_coverage,
    layers_with_spread,
    mark_interval_hits,
    narrowest_width,
)
from analysis.settings import Setting
from analysis.theory_comparison import TheoryComparison, compare_to_theory
from analysis.verdicts import compute_verdicts, count_verdicts
from fanin.statistics.draw_distribution import Z


def test_a_correct_theory_disagrees_nowhere() -> None:
    rows = compute_verdicts(simulated(20))
    assert len(rows) == 20 * 2 * 2 * 4
    assert set(rows.theory) == {"finite_width"}
    assert set(rows.test) == {"log"}
    assert not (rows.verdict == "disagrees").any()
    assert not set(count_verdicts(rows).outcome) - {"explained", "not_rejected"}


def _outcomes(*verdicts: str, method: str | list[str] = "first_order") -> pd.Series:
    rows = pd.DataFrame({"setting": 0, "verdict": verdicts, "method": method})
    return count_verdicts(rows).loc[0]


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        (["agrees"], "explained"),
        (["agrees", "not_tested"], "explained"),
        (["agrees", "undecided"], "not_rejected"),
        (["undecided"], "not_rejected"),
        (["undecided", "not_tested"], "not_rejected"),
        (["agrees", "undecided", "disagrees"], "disagrees"),
        (["not_tested", "disagrees"], "disagrees"),
        (["not_tested"], "not_tested"),
    ],
)
def test_a_setting_is_explained_if_every_tested_layer_agrees(
    verdicts: list[str], outcome: str
) -> None:
    assert _outcomes(*verdicts).outcome == outcome


@pytest.mark.parametrize("method", ["exact", "first_order", "sampled", "unknown"])
def test_a_prediction_that_is_not_simulated_confirms(method: str) -> None:
    row = _outcomes("agrees", "agrees", method=method)
    assert (row.outcome, row.simulated) == ("explained", 0)


def test_a_simulated_prediction_never_confirms_but_can_be_wrong() -> None:
    methods = ["first_order", "simulated", "simulated"]
    row = _outcomes("agrees", "agrees", "undecided", method=methods)
    assert (row.outcome, row.agrees, row.simulated) == ("not_rejected", 2, 1)
    assert _outcomes("agrees", "agrees", method="simulated").outcome == "not_rejected"
    assert _outcomes("agrees", "disagrees", method="simulated").outcome == "disagrees"
    # A simulated layer that was not tested doesn't matter.
    assert _outcomes("agrees", "not_tested", method=methods[:2]).outcome == "explained"


def test_an_undecided_layer_is_not_counted_as_explained_by_a_wider_margin() -> None:
    """With the margin below the error, nothing is decided; with a wide one, every layer agrees."""
    sweep = simulated(3)
    narrow, wide = (compute_verdicts(sweep, margin=margin) for margin in (1.001, 3.0))
    assert set(count_verdicts(narrow).outcome) == {"not_rejected"}
    assert set(count_verdicts(wide).outcome) == {"explained"}


def test_the_method_is_that_of_the_highest_theory_and_unknown_without_the_column() -> None:
    rows = compute_verdicts(simulated(1, method="simulated"))
    assert set(rows.method) == {"simulated"}
    assert set(compute_verdicts(simulated(1, method=None)).method) == {"unknown"}
    mixed = compute_verdicts(simulated(1, method=None) + simulated(1, method="sampled"))
    assert mixed.groupby("setting").method.unique().map(list).tolist() == [["unknown"], ["sampled"]]


@pytest.mark.parametrize(
    ("quantity", "wrong_layers"), [("preact_m2", [3, 4]), ("vjp_m2", [1, 2, 3])]
)
def test_an_error_affects_later_layers_and_one_step(quantity: str, wrong_layers: list[int]) -> None:
    rows = compute_verdicts(simulated(5, off={(2, quantity, 3): 1.5}))
    wrong = rows[rows.verdict == "disagrees"]
    assert set(wrong.setting) == {2}
    assert set(wrong.quantity) == {quantity}
    assert sorted(set(wrong.layer)) == wrong_layers
    steps = rows[rows.step_verdict == "disagrees"]
    assert set(zip(steps.setting, steps.quantity, steps.layer, strict=True)) == {(2, quantity, 3)}
    assert (count_verdicts(rows).outcome == "disagrees").tolist() == [n == 2 for n in range(5)]


def test_the_first_layer_in_signal_direction_has_no_step() -> None:
    rows = compute_verdicts(simulated(2))
    first = rows.layer.where(rows.quantity == "preact_m2", 5 - rows.layer) == 1
    assert rows.step[first].isna().all()
    assert rows.step[~first].notna().all()


def test_the_next_lower_theory_is_used_if_the_highest_is_missing() -> None:
    (comparison,) = simulated(1)
    missing = (comparison.predicted.theory == "finite_width") & (comparison.predicted.layer == 2)
    predicted = comparison.predicted.assign(value=comparison.predicted.value.mask(missing))
    rows = compute_verdicts([dataclasses.replace(comparison, predicted=predicted)])
    lower = rows[rows.layer == 2]
    assert set(lower.theory) == {"he"}
    assert set(lower.test) == {"mean"}  # He's formula predicts no spread
    assert set(lower.verdict) == {"disagrees"}  # its prediction is half of the measured value
    assert set(rows[rows.layer != 2].theory) == {"finite_width"}


def test_draws_of_two_weight_seeds_are_pooled() -> None:
    (comparison,) = simulated(1, draws=32)
    other = comparison.draws.assign(seed_weights=7, value=comparison.draws.value * 1.01)
    pooled = pd.concat([comparison.draws, other], ignore_index=True)
    rows = compute_verdicts([dataclasses.replace(comparison, draws=pooled)])
    assert set(rows.draws) == {64}


def test_the_order_of_rows_does_not_matter() -> None:
    sweep = simulated(3, off={(1, "vjp_m2", 2): 2.0})
    shuffled = [
        dataclasses.replace(c, draws=c.draws.sample(frac=1, random_state=n))
        for n, c in enumerate(sweep)
    ]
    original, reordered = compute_verdicts(sweep), compute_verdicts(shuffled)
    pd.testing.assert_frame_equal(original, reordered, rtol=1e-9)


def test_a_mean_is_tested_in_units_of_the_rms() -> None:
    rng = np.random.default_rng(0)
    draws = pd.concat(
        [
            pd.DataFrame({"quantity": "preact_mean", "value": rng.normal(0, 0.1, 400)}),
            pd.DataFrame({"quantity": "preact_m2", "value": rng.lognormal(np.log(4), 0.1, 400)}),
        ]
    ).assign(layer=1, layer_name="fc1", image=0, seed_weights=0)
    draws["draw"] = draws.groupby("quantity").cumcount()
    predicted = pd.DataFrame(
        {"quantity": ["preact_mean", "preact_m2"], "value": [0.0, 4.0], "log_sd": np.nan}
    ).assign(image=0, layer=1, layer_name="fc1", theory="field", sampling_se=0.0)
    comparison = TheoryComparison(Setting({}, "one", {}, ("x",)), draws, predicted, None)
    mean = compute_verdicts([comparison]).set_index("quantity").loc["preact_mean"]
    assert (mean.test, mean.verdict) == ("linear", "agrees")
    values = draws[draws.quantity == "preact_mean"].value
    assert mean.log_ratio == pytest.approx(values.mean() / 2)


def test_a_sweep_without_any_prediction_has_no_verdicts() -> None:
    (comparison,) = simulated(1)
    rows = compute_verdicts(
        [dataclasses.replace(comparison, predicted=pd.DataFrame(), unpredicted="why")]
    )
    assert rows.empty
    assert count_verdicts(rows).empty


@pytest.fixture(autouse=True)
def widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace `narrowest_width`, because simulated settings have no network; default width 64."""
    monkeypatch.setattr(coverage_module, "narrowest_width", lambda config: config.get("width", 64))


def _coverage(sweep: list[TheoryComparison]) -> pd.DataFrame:
    return interval_coverage(sweep, compute_verdicts(sweep)).set_index(["direction", "width"])


def test_a_correct_theory_covers_95_percent_in_both_directions() -> None:
    coverage = _coverage(simulated(30, width=256))  # wide enough for the first-order law
    for direction in ("forward", "backward"):
        row = coverage.loc[direction, "all"]
        assert row.low < 0.95 < row.high
        assert not row.misses
        assert row.high - row.low < 0.03
        assert (row.draws, row.settings) == (30 * 2 * 4 * 64, 30)
        assert row.factor == pytest.approx(np.exp(Z * np.median(relu_log_sd(256, 4))))


def test_intervals_shrunk_by_two_miss() -> None:
    coverage = _coverage(simulated(10, shrink=0.5))
    assert coverage.misses.all()
    assert coverage.coverage.between(0.6, 0.75).all()


def test_a_correct_spread_has_a_ratio_near_1_and_a_uniform_transform() -> None:
    coverage = _coverage(simulated(30, width=256)).xs("all", level="width")
    # The ratio is a median over 240 layers of 64 draws. The layers of a network are dependent; at
    # worst there are 60 independent ones. The relative error of one ratio is 1/sqrt(2*63).
    error = 1.25 / np.sqrt(2 * 63 * 60)
    assert coverage.sd_ratio.between(1 - 4 * error, 1 + 4 * error).all()
    assert (coverage.pit_p > 0.001).all()
    assert (coverage.pit_distance < 0.1).all()


@pytest.mark.parametrize("shrink", [0.8, 1.25])
def test_a_wrong_spread_shows_in_the_ratio_and_in_the_transform(shrink: float) -> None:
    coverage = _coverage(simulated(20, width=256, shrink=shrink)).xs("all", level="width")
    error = 1.25 / np.sqrt(2 * 63 * 40)
    assert coverage.sd_ratio.between(shrink * (1 - 4 * error), shrink * (1 + 4 * error)).all()
    assert (coverage.pit_p < 0.01).all()


def test_the_ratio_of_spreads_does_not_depend_on_the_number_of_draws() -> None:
    """The median of a sample standard deviation of four draws is 11 % below the true one."""
    few = _coverage(simulated(200, width=1024, depth=2, draws=4)).loc[("forward", "all")]
    # 800 layers, pairwise dependent; the relative error of one is 1/sqrt(2*3).
    assert few.sd_ratio == pytest.approx(1, abs=4 * 1.25 / np.sqrt(2 * 3 * 400))


def test_each_method_has_its_own_coverage() -> None:
    wrong = simulated(6, width=256, method="simulated", shrink=0.5, seed=1)
    sweep = simulated(6, width=256) + wrong
    table = coverage_by(sweep, compute_verdicts(sweep)).set_index(["direction", "method"])
    assert table.index.tolist() == [
        (direction, method)
        for direction in ("forward", "backward")
        for method in ("first_order", "simulated")
    ]
    assert (table.layers == 6 * 2 * 4).all()
    assert (table.draws == 64 * table.layers).all()
    assert (table.settings == 6).all()
    first, simulated_rows = table.xs("first_order", level=1), table.xs("simulated", level=1)
    assert (first.sd_ratio.between(0.9, 1.1) & (first.low < 0.95) & (first.high > 0.95)).all()
    assert (simulated_rows.sd_ratio < 0.6).all()
    assert (simulated_rows.coverage < 0.8).all()


def test_methods_without_a_predicted_spread_have_no_coverage() -> None:
    (comparison,) = simulated(1, method=["exact", "exact", "sampled", "sampled"])
    log_sd = comparison.predicted.log_sd.mask(comparison.predicted.layer <= 2)
    predicted = comparison.predicted.assign(log_sd=log_sd)
    sweep = [dataclasses.replace(comparison, predicted=predicted)]
    assert set(coverage_by(sweep, compute_verdicts(sweep)).method) == {"sampled"}


def test_wide_and_narrow_networks_are_coverage_apart() -> None:
    sweep = simulated(4) + simulated(2, width=16, seed=1)
    for n, comparison in enumerate(sweep):
        config = {"width": 64 if n < 4 else 16}
        setting = dataclasses.replace(comparison.setting, config=config)
        sweep[n] = dataclasses.replace(comparison, setting=setting)
    coverage = _coverage(sweep)
    assert coverage.settings.to_dict() == {
        (direction, width): n
        for direction in ("forward", "backward")
        for width, n in (("all", 6), ("wide", 4), ("narrow", 2))
    }
    assert (coverage.factor.xs("narrow", level="width") > 2).all()


def test_overflowed_and_constant_layers_are_not_coverage() -> None:
    first, second = simulated(2)
    broken = first.draws.value.mask(first.draws.layer == 4, np.inf)
    constant = first.predicted.log_sd.mask(first.predicted.layer == 1, 0.0)
    broken = broken.mask(first.draws.layer == 1, 1.0)
    first = dataclasses.replace(
        first,
        draws=first.draws.assign(value=broken),
        predicted=first.predicted.assign(log_sd=constant),
    )
    coverage = _coverage([first, second])
    assert coverage.loc["forward", "all"].draws == 2 * 64 * (2 + 4)


def test_without_a_predicted_spread_there_is_no_coverage() -> None:
    (comparison,) = simulated(1)
    lower = comparison.predicted[comparison.predicted.theory == "he"]
    rows = compute_verdicts([dataclasses.replace(comparison, predicted=lower)])
    assert interval_coverage([comparison], rows).empty
    assert coverage_by([comparison], rows).empty


def test_the_logits_do_not_count_as_narrowest_layer(
    small: Results, comparisons: list[TheoryComparison]
) -> None:
    """`small` has convolutions of four channels before ten logits."""
    assert {narrowest_width(comparison.setting.config) for comparison in comparisons} == {4}


def test_networks_that_are_dead_in_some_draws_do_not_disagree(
    sweep: Callable[..., Results],
) -> None:
    """Three ReLU units are all inactive in one of eight draws."""
    network = ("model=mlp", "model.width=3", "model.depth=3", "activation=relu", "init=he_normal")
    probed = ("train.steps=0", "probe.draws=48", "probe.size=2", "seed=0,1")
    comparisons = compare_to_theory(sweep("dead", *network, *probed))
    rows = compute_verdicts(comparisons)
    with_zeros = rows[(rows.theory == "finite_width") & rows.zeros.between(1, rows.draws - 1)]
    assert (with_zeros.kind == "tested").any()
    p, draws = with_zeros.zero_probability, with_zeros.draws
    error = np.sqrt(p * (1 - p) * (1 / draws + 1 / 2000))  # the theory samples 2000 draws
    assert ((with_zeros.zeros / draws - p).abs() <= 4 * error).all()
    assert (rows.verdict != "disagrees").all()
    tables = interval_coverage(comparisons, rows)
    assert not tables.misses.any()
    assert mark_interval_hits(comparisons, layers_with_spread(rows)).transformed.between(0, 1).all()
