"""Tests of summaries of draws and of their logarithms."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from fanin.statistics.draws import summarize_draws


def _summary(*values: float) -> pd.Series:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (row,) = summarize_draws(pd.DataFrame({"layer": 1, "value": values}), ["layer"]).to_dict(
            "records"
        )
    return pd.Series(row)


def test_summaries_match_numpy() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"layer": rng.integers(1, 4, 90), "value": rng.lognormal(size=90)})
    for row in summarize_draws(frame, ["layer"]).itertuples():
        values = frame.value[frame.layer == row.layer].to_numpy()
        assert row.draws == len(values)
        assert row.mean * row.scale == pytest.approx(values.mean())
        assert row.sd * row.scale == pytest.approx(values.std(ddof=1))
        assert row.mean_log == pytest.approx(np.log(values).mean())
        assert row.sd_log == pytest.approx(np.log(values).std(ddof=1))


@pytest.mark.parametrize("magnitude", [1e-300, 1e200, 1e308])
def test_moments_near_the_float64_limits_have_a_spread(magnitude: float) -> None:
    row = _summary(magnitude, magnitude / 2)
    assert row["sd"] / row["mean"] == pytest.approx(np.sqrt(0.125) / 0.75)
    assert row["sd_log"] == pytest.approx(np.log(2) / np.sqrt(2))


def test_zeros_and_overflow_are_counted() -> None:
    for values, zeros, overflowed, mean_log in (
        ((0.0, 2.0, 2.0), 1, 0, np.log(2)),
        ((0.0, 0.0), 2, 0, np.nan),
        ((np.inf, 1.0), 0, 1, np.nan),
        ((np.nan, np.inf), 0, 2, np.nan),
    ):
        row = _summary(*values)
        assert (row["zeros"], row["overflowed"]) == (zeros, overflowed)
        assert row["mean_log"] == pytest.approx(mean_log, nan_ok=True)
    assert _summary(0.0, 1.0)["mean"] == 0.5


def test_one_draw_has_no_spread() -> None:
    row = _summary(2.0)
    assert row["mean_log"] == pytest.approx(np.log(2))
    assert np.isnan([row["sd"], row["sd_log"]]).all()
