"""`Prediction.to_frame`."""

from __future__ import annotations

import numpy as np
import pytest

from fanin.theory import Prediction


def test_error_of_the_image_mean_uses_whole_repeats():
    repeats = np.array([[[1.0], [5.0]], [[3.0], [3.0]]])  # two repeats, two images, one layer
    frame = Prediction("mean_field", "exact", ("fc1",), {"preact_m2": repeats}).to_frame()
    rows = frame.set_index("image")
    assert rows["value"].to_dict() == {0: 2, 1: 4, -1: 3}
    assert rows["sampling_se"].to_dict() == pytest.approx({0: 1, 1: 1, -1: 0})
    assert rows["log_sd"].isna().all()


def test_single_repeat_has_no_sampling_error():
    frame = Prediction("he", "exact", ("a", "b"), {"vjp_m2": np.ones((1, 3, 2))}).to_frame()
    assert (frame["sampling_se"] == 0).all()
    assert frame["layer"].tolist() == [1, 2] * 4
    assert frame["image"].tolist() == [0, 0, 1, 1, 2, 2, -1, -1]


def test_overflowed_moment_has_infinite_error():
    repeats = np.array([[[1e300]], [[np.inf]]])
    frame = Prediction("mean_field", "exact", ("fc1",), {"preact_m2": repeats}).to_frame()
    assert np.isinf(frame["value"]).all()
    assert np.isinf(frame["sampling_se"]).all()


def test_huge_moments_have_a_finite_error():
    repeats = np.array([[[1e300]], [[2e300]]])
    frame = Prediction("mean_field", "exact", ("fc1",), {"preact_m2": repeats}).to_frame()
    np.testing.assert_allclose(frame["sampling_se"], 0.5e300)
