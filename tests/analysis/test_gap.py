"""The gap between He's formula and the measurement, split by who closes it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.gap import closed

RUNGS = ["he", "mean_field", "field", "finite"]
MOMENTS = st.floats(1e-30, 1e30)


@settings(derandomize=True)
@given(st.tuples(MOMENTS, *([MOMENTS | st.none()] * 3)), MOMENTS)
def test_the_parts_add_up_to_the_gap_whichever_rungs_are_silent(
    predictions: tuple[float | None, ...], measured: float
) -> None:
    frame = pd.DataFrame([[measured, *predictions]], columns=["measured", *RUNGS], dtype=float)
    parts = closed(frame, RUNGS).iloc[0]
    whole = np.log(measured / predictions[0])
    np.testing.assert_allclose(parts.gap, whole, atol=1e-12)
    np.testing.assert_allclose(parts.drop("gap").sum(), whole, atol=1e-11)
    silent = {f"closed/{r}" for r, p in zip(RUNGS, predictions, strict=True) if p is None}
    assert silent == set(parts.index[parts.isna()])


def test_a_rung_above_a_silent_one_closes_what_both_would_have() -> None:
    frame = pd.DataFrame({"measured": [8.0], "he": [1.0], "mean_field": [np.nan], "field": [4.0]})
    parts = closed(frame, ["he", "mean_field", "field"]).iloc[0]
    np.testing.assert_allclose(parts["closed/field"], np.log(4))
    np.testing.assert_allclose(parts["left"], np.log(2))


def test_signed_quantities_have_no_ratio() -> None:
    frame = pd.DataFrame({"measured": [-0.1], "he": [0.0], "mean_field": [0.2]})
    assert closed(frame, ["he", "mean_field"])[["gap", "left"]].isna().all(axis=None)
