"""The comparison table against plain arithmetic on the files, and the gap split by theory."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import Results
from analysis.settings import Setting
from analysis.theory_comparison import (
    TheoryComparison,
    compare_to_theory,
    decompose_gap,
    layer_table,
)
from fanin.theory.predict import THEORIES

SETTING = Setting({}, "hand made", {}, ("x",))
FOUR = ["he", "mean_field", "field", "finite_width"]
MOMENTS = st.floats(1e-30, 1e30)


def _comparison(values: dict[int, list[float]], theory: dict[int, float]) -> TheoryComparison:
    """Draws by layer, and what both theories predict for a layer."""
    draws = pd.DataFrame(
        [
            {"layer": n, "layer_name": f"fc{n}", "quantity": "preact_m2", "image": -1, "value": v}
            for n, column in values.items()
            for v in column
        ]
    )
    predicted = pd.DataFrame(
        [
            {"layer": n, "quantity": "preact_m2", "image": -1, "theory": theory, "value": v}
            for theory in THEORIES
            for n, v in theory.items()
        ]
    )
    return TheoryComparison(SETTING, draws, predicted, None)


@pytest.mark.parametrize("quantity", ["preact_m2", "vjp_m2", "weight_vjp_m2"])
@pytest.mark.parametrize("image", [-1, 1])
def test_table_agrees_with_plain_pandas(
    small: Results, by_label: dict[str, TheoryComparison], quantity: str, image: int
) -> None:
    comparison = by_label["plain depth=4 width=4 relu he_normal"]
    cells = small.cells
    mine = cells[
        (cells.model == "plain")
        & (cells.activation == "relu")
        & (cells.init == "he_normal")
        & (cells["optim.lr"] == 0.1)  # of the cells that share draws, one
    ]
    rows = small.layers[
        small.layers.cell_id.isin(mine.cell_id)
        & (small.layers.step == 0)
        & (small.layers.quantity == quantity)
        & (small.layers.image == image)
        & (small.layers.layer > 0)
    ]
    found = layer_table(comparison, quantity, image).set_index("layer")
    assert found.layer_name.tolist() == ["conv1", "conv2", "conv3", "fc1"]
    assert list(THEORIES)[:2] == ["he", "mean_field"]
    for layer, values in rows.groupby("layer").value:
        row = found.loc[layer]
        assert row.draws == len(values) == 8  # two seeds of four draws
        # A few roundings apart: the orders of summation differ.
        assert row.measured == pytest.approx(values.mean(), rel=1e-13)
        assert row.se == pytest.approx(values.std(ddof=1) / 8**0.5, rel=1e-12)
        for theory in THEORIES:
            rows = comparison.predicted
            (value,) = rows[
                (rows.theory == theory)
                & (rows.layer == layer)
                & (rows.quantity == quantity)
                & (rows.image == image)
            ].value
            assert row[theory] == value
            assert row[f"measured/{theory}"] == row.measured / value


def test_every_measured_layer_has_every_theory(comparisons: list[TheoryComparison]) -> None:
    assert len(comparisons) == 20
    for comparison in comparisons:
        frame = layer_table(comparison)
        assert len(frame) == (2 if comparison.setting.axis_values["model"] == "two_layer" else 4)
        assert frame[list(THEORIES)].isna().all(axis=None) == (comparison.unpredicted is not None)


def test_only_data_dependent_inits_have_no_prediction(comparisons: list[TheoryComparison]) -> None:
    without = {c.setting.axis_values["init"] for c in comparisons if c.unpredicted}
    assert without == {"lsuv"}


def test_moments_near_the_end_of_float64_keep_their_standard_error() -> None:
    values = [1e200, 3e200]
    row = layer_table(_comparison({1: values}, {1: 1e200})).iloc[0]
    assert row.measured == pytest.approx(2e200)
    # sd / sqrt(2) of {1, 3} is 1.
    assert row.se == pytest.approx(1e200)
    assert row["measured/he"] == pytest.approx(2.0)


def test_overflowed_missing_and_zero_moments_say_so_quietly() -> None:
    values = {
        1: [1.0, np.inf],
        2: [0.0, 0.0],
        3: [np.nan, np.nan],
        4: [5.0],
        5: [1.6e308, 1.7e308],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = layer_table(_comparison(values, {1: 2.0, 2: 0.0, 3: 1.0, 4: np.inf, 5: 1.0}))
    found = found.set_index("layer")
    assert found.loc[1, ["measured", "measured/he"]].tolist() == [np.inf, np.inf]
    assert np.isnan(found.loc[1, "se"])
    assert found.loc[2, ["measured", "se"]].tolist() == [0.0, 0.0]
    assert np.isnan(found.loc[2, "measured/he"])  # 0 / 0
    assert np.isnan(found.loc[3, "measured"])
    assert found.loc[3, "draws"] == 0
    assert np.isnan(found.loc[4, "se"])  # one draw has no spread
    assert found.loc[4, "measured/he"] == 0.0
    assert found.loc[5, "measured"] == np.inf  # the mean of two that can't be added


def test_whole_net_rows_are_no_layer() -> None:
    comparison = _comparison({-1: [3.0, 4.0], 1: [1.0, 2.0]}, {1: 1.0})
    assert layer_table(comparison).layer.tolist() == [1]


def test_the_table_leaves_the_draws_as_they_were(comparisons: list[TheoryComparison]) -> None:
    comparison = comparisons[0]
    before = comparison.draws.copy(deep=True)
    layer_table(comparison)
    pd.testing.assert_frame_equal(comparison.draws, before)


def test_a_sweep_measured_only_while_training_has_nothing_to_compare(small: Results) -> None:
    late = dataclasses.replace(small, layers=small.layers.assign(step=5))
    with pytest.raises(Exception, match="no layer was measured at initialization"):
        compare_to_theory(late)


@settings(derandomize=True)
@given(st.tuples(MOMENTS, *([MOMENTS | st.none()] * 3)), MOMENTS)
def test_the_parts_add_up_to_the_gap_whichever_theories_are_silent(
    predictions: tuple[float | None, ...], measured: float
) -> None:
    frame = pd.DataFrame([[measured, *predictions]], columns=["measured", *FOUR], dtype=float)
    parts = decompose_gap(frame, FOUR).iloc[0]
    whole = np.log(measured / predictions[0])
    np.testing.assert_allclose(parts.gap, whole, atol=1e-12)
    np.testing.assert_allclose(parts.drop("gap").sum(), whole, atol=1e-11)
    silent = {f"closed/{r}" for r, p in zip(FOUR, predictions, strict=True) if p is None}
    assert silent == set(parts.index[parts.isna()])


def test_a_theory_above_a_silent_one_closes_what_both_would_have() -> None:
    frame = pd.DataFrame({"measured": [8.0], "he": [1.0], "mean_field": [np.nan], "field": [4.0]})
    parts = decompose_gap(frame, ["he", "mean_field", "field"]).iloc[0]
    np.testing.assert_allclose(parts["closed/field"], np.log(4))
    np.testing.assert_allclose(parts["left"], np.log(2))


def test_signed_quantities_have_no_ratio() -> None:
    frame = pd.DataFrame({"measured": [-0.1], "he": [0.0], "mean_field": [0.2]})
    assert decompose_gap(frame, ["he", "mean_field"])[["gap", "left"]].isna().all(axis=None)
