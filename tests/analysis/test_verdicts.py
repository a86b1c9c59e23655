"""A whole sweep is judged together, each layer by the highest rung that predicts it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from simulated_sweep import simulated

from analysis.comparison import Comparison
from analysis.conditions import Setting
from analysis.verdicts import by_setting, verdicts


def test_a_right_theory_disagrees_nowhere() -> None:
    rows = verdicts(simulated(20))
    assert len(rows) == 20 * 2 * 2 * 4
    assert set(rows.rung) == {"finite"}
    assert set(rows.test) == {"log"}
    assert not (rows.verdict == "disagrees").any()
    assert set(by_setting(rows).outcome) == {"explained"}


@pytest.mark.parametrize(("quantity", "wrong_ones"), [("preact_m2", [3, 4]), ("vjp_m2", [1, 2, 3])])
def test_an_error_shows_from_its_layer_on_and_its_step_says_where(
    quantity: str, wrong_ones: list[int]
) -> None:
    """Forward on the way up, backward on the way down."""
    rows = verdicts(simulated(5, off={(2, quantity, 3): 1.5}))
    wrong = rows[rows.verdict == "disagrees"]
    assert set(wrong.setting) == {2}
    assert set(wrong.quantity) == {quantity}
    assert sorted(set(wrong.layer)) == wrong_ones
    steps = rows[rows.step_verdict == "disagrees"]
    assert set(zip(steps.setting, steps.quantity, steps.layer, strict=True)) == {(2, quantity, 3)}
    assert (
        by_setting(rows).outcome.tolist() == ["explained"] * 2 + ["disagrees"] + ["explained"] * 2
    )


def test_the_signal_enters_where_no_step_leads_to() -> None:
    rows = verdicts(simulated(2))
    first = rows.layer.where(rows.quantity == "preact_m2", 5 - rows.layer) == 1
    assert rows.step[first].isna().all()
    assert rows.step[~first].notna().all()


def test_where_the_highest_rung_is_silent_the_next_below_speaks() -> None:
    (one,) = simulated(1)
    silent = (one.predicted.rung == "finite") & (one.predicted.layer == 2)
    predicted = one.predicted.assign(value=one.predicted.value.mask(silent))
    rows = verdicts([dataclasses.replace(one, predicted=predicted)])
    lower = rows[rows.layer == 2]
    assert set(lower.rung) == {"he"}
    assert set(lower.test) == {"mean"}  # He's formula predicts no spread
    assert set(lower.verdict) == {"disagrees"}  # here it says half of what is measured
    assert set(rows[rows.layer != 2].rung) == {"finite"}


def test_draws_of_two_weight_seeds_are_draws_of_one_setting() -> None:
    (one,) = simulated(1, draws=32)
    other = one.draws.assign(seed_weights=7, value=one.draws.value * 1.01)
    both = pd.concat([one.draws, other], ignore_index=True)
    rows = verdicts([dataclasses.replace(one, draws=both)])
    assert set(rows.draws) == {64}


def test_the_order_of_rows_decides_nothing() -> None:
    sweep = simulated(3, off={(1, "vjp_m2", 2): 2.0})
    shuffled = [
        dataclasses.replace(c, draws=c.draws.sample(frac=1, random_state=n))
        for n, c in enumerate(sweep)
    ]
    left, right = verdicts(sweep), verdicts(shuffled)
    pd.testing.assert_frame_equal(left, right, rtol=1e-9)


def test_a_mean_is_told_in_units_of_its_roots_second_moment() -> None:
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
    ).assign(image=0, layer=1, layer_name="fc1", rung="field", sampling_se=0.0)
    comparison = Comparison(Setting({}, "one", {}, ("x",)), draws, predicted, None)
    mean = verdicts([comparison]).set_index("quantity").loc["preact_mean"]
    assert (mean.test, mean.verdict) == ("linear", "agrees")
    values = draws[draws.quantity == "preact_mean"].value
    assert mean.log_ratio == pytest.approx(values.mean() / 2)


def test_a_sweep_without_any_prediction_has_no_verdicts() -> None:
    (one,) = simulated(1)
    rows = verdicts([dataclasses.replace(one, predicted=pd.DataFrame(), unpredicted="why")])
    assert rows.empty
    assert by_setting(rows).empty
