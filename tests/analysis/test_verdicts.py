"""Tests of verdicts on a sweep and of the coverage of predicted intervals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from relu_moments import relu_log_sd
from simulated_sweep import simulated

from analysis import Results
from analysis import verdicts as verdicts_module
from analysis.settings import Setting
from analysis.theory_comparison import TheoryComparison
from analysis.verdicts import compute_verdicts, count_verdicts, interval_coverage, narrowest_width
from fanin.statistics.coverage import Z


def test_a_correct_theory_disagrees_nowhere() -> None:
    rows = compute_verdicts(simulated(20))
    assert len(rows) == 20 * 2 * 2 * 4
    assert set(rows.theory) == {"finite_width"}
    assert set(rows.test) == {"log"}
    assert not (rows.verdict == "disagrees").any()
    assert set(count_verdicts(rows).outcome) == {"explained"}


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
    assert (
        count_verdicts(rows).outcome.tolist()
        == ["explained"] * 2 + ["disagrees"] + ["explained"] * 2
    )


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
    monkeypatch.setattr(verdicts_module, "narrowest_width", lambda config: config.get("width", 64))


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
    assert interval_coverage(
        [comparison], compute_verdicts([dataclasses.replace(comparison, predicted=lower)])
    ).empty


def test_the_logits_do_not_count_as_narrowest_layer(
    small: Results, comparisons: list[TheoryComparison]
) -> None:
    """`small` has convolutions of four channels before ten logits."""
    assert {narrowest_width(comparison.setting.config) for comparison in comparisons} == {4}
