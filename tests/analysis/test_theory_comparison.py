"""Tests of `layer_table` and `decompose_gap`."""

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

SETTING = Setting({}, "by hand", {}, ("x",))
FOUR = ["he", "mean_field", "field", "finite_width"]
MOMENTS = st.floats(1e-30, 1e30)


def _comparison(
    values: dict[int, list[float]], values_predicted: dict[int, float]
) -> TheoryComparison:
    """Build a comparison from draws by layer and predictions that are equal for all theories."""
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
            for n, v in values_predicted.items()
        ]
    )
    return TheoryComparison(SETTING, draws, predicted, None)


@pytest.mark.parametrize("quantity", ["preact_m2", "vjp_m2", "weight_vjp_m2"])
@pytest.mark.parametrize("image", [-1, 1])
def test_layer_table_agrees_with_pandas(
    small: Results, by_label: dict[str, TheoryComparison], quantity: str, image: int
) -> None:
    comparison = by_label["plain depth=4 width=4 relu he_normal"]
    cells = small.cells
    selected = cells[
        (cells.model == "plain")
        & (cells.activation == "relu")
        & (cells.init == "he_normal")
        & (cells["optim.lr"] == 0.1)  # one of the cells that share draws
    ]
    rows = small.layers[
        small.layers.cell_id.isin(selected.cell_id)
        & (small.layers.step == 0)
        & (small.layers.quantity == quantity)
        & (small.layers.image == image)
        & (small.layers.layer > 0)
    ]
    layers = layer_table(comparison, quantity, image).set_index("layer")
    assert layers.layer_name.tolist() == ["conv1", "conv2", "conv3", "fc1"]
    assert list(THEORIES)[:2] == ["he", "mean_field"]
    for layer, values in rows.groupby("layer").value:
        row = layers.loc[layer]
        assert row.draws == len(values) == 8  # two seeds of four draws
        # Equal up to rounding, because the order of summation differs.
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


def test_moments_near_the_float64_limit_have_a_standard_error() -> None:
    values = [1e200, 3e200]
    row = layer_table(_comparison({1: values}, {1: 1e200})).iloc[0]
    assert row.measured == pytest.approx(2e200)
    # sd / sqrt(2) of {1, 3} is 1.
    assert row.se == pytest.approx(1e200)
    assert row["measured/he"] == pytest.approx(2.0)


def test_overflowed_missing_and_zero_moments_raise_no_warnings() -> None:
    values = {
        1: [1.0, np.inf],
        2: [0.0, 0.0],
        3: [np.nan, np.nan],
        4: [5.0],
        5: [1.6e308, 1.7e308],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layers = layer_table(_comparison(values, {1: 2.0, 2: 0.0, 3: 1.0, 4: np.inf, 5: 1.0}))
    layers = layers.set_index("layer")
    assert layers.loc[1, ["measured", "measured/he"]].tolist() == [np.inf, np.inf]
    assert np.isnan(layers.loc[1, "se"])
    assert layers.loc[2, ["measured", "se"]].tolist() == [0.0, 0.0]
    assert np.isnan(layers.loc[2, "measured/he"])  # 0 / 0
    assert np.isnan(layers.loc[3, "measured"])
    assert layers.loc[3, "draws"] == 0
    assert np.isnan(layers.loc[4, "se"])  # a single draw
    assert layers.loc[4, "measured/he"] == 0.0
    assert layers.loc[5, "measured"] == np.inf  # the sum overflows


def test_rows_of_the_whole_network_are_left_out() -> None:
    comparison = _comparison({-1: [3.0, 4.0], 1: [1.0, 2.0]}, {1: 1.0})
    assert layer_table(comparison).layer.tolist() == [1]


def test_layer_table_does_not_change_the_draws(comparisons: list[TheoryComparison]) -> None:
    comparison = comparisons[0]
    before = comparison.draws.copy(deep=True)
    layer_table(comparison)
    pd.testing.assert_frame_equal(comparison.draws, before)


def test_a_sweep_without_measurements_at_step_0_is_refused(small: Results) -> None:
    late = dataclasses.replace(small, layers=small.layers.assign(step=5))
    with pytest.raises(Exception, match="no layer was measured at initialization"):
        compare_to_theory(late)


@settings(derandomize=True)
@given(st.tuples(MOMENTS, *([MOMENTS | st.none()] * 3)), MOMENTS)
def test_the_parts_add_up_to_the_gap_with_missing_theories(
    predictions: tuple[float | None, ...], measured: float
) -> None:
    frame = pd.DataFrame([[measured, *predictions]], columns=["measured", *FOUR], dtype=float)
    parts = decompose_gap(frame, FOUR).iloc[0]
    gap = np.log(measured / predictions[0])
    np.testing.assert_allclose(parts.gap, gap, atol=1e-12)
    np.testing.assert_allclose(parts.drop("gap").sum(), gap, atol=1e-11)
    missing = {f"closed/{theory}" for theory, p in zip(FOUR, predictions, strict=True) if p is None}
    assert missing == set(parts.index[parts.isna()])


def test_a_missing_theory_is_skipped_in_the_decomposition() -> None:
    frame = pd.DataFrame({"measured": [8.0], "he": [1.0], "mean_field": [np.nan], "field": [4.0]})
    parts = decompose_gap(frame, ["he", "mean_field", "field"]).iloc[0]
    np.testing.assert_allclose(parts["closed/field"], np.log(4))
    np.testing.assert_allclose(parts["residual"], np.log(2))


def test_signed_quantities_have_no_gap() -> None:
    frame = pd.DataFrame({"measured": [-0.1], "he": [0.0], "mean_field": [0.2]})
    assert decompose_gap(frame, ["he", "mean_field"])[["gap", "residual"]].isna().all(axis=None)
