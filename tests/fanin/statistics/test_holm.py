"""Tests of Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanin.statistics.holm import holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_holm_of_three_p_values() -> None:
    # 0.01 x 3, then 0.02 x 2, then 0.04 x 1, which is at least the value before it.
    np.testing.assert_allclose(holm([0.04, 0.01, 0.02]), [0.04, 0.03, 0.04], rtol=1e-15)


def test_nan_does_not_count_as_a_test() -> None:
    corrected = holm([np.nan, 0.01, np.nan, 0.02])
    np.testing.assert_allclose(corrected[[1, 3]], holm([0.01, 0.02]))
    assert np.isnan(corrected[[0, 2]]).all()
    assert holm([]).shape == (0,)


@settings(derandomize=True)
@given(P_VALUES)
def test_holm_lies_between_no_correction_and_bonferroni(p: list[float]) -> None:
    corrected = holm(p)
    assert (corrected >= np.array(p)).all()
    assert (corrected <= np.minimum(np.array(p) * len(p), 1)).all()


@settings(derandomize=True)
@given(P_VALUES)
def test_the_step_down_procedure_rejects_the_same_tests(p: list[float]) -> None:
    """Holm (1979): start at the smallest p-value and stop at the first that is too large."""
    level = 0.05
    rejected = set()
    for step, n in enumerate(np.argsort(p, kind="stable")):
        if p[n] * (len(p) - step) > level:
            break
        rejected.add(int(n))
    assert set(np.flatnonzero(holm(p) <= level)) == rejected


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_holm_keeps_the_level_for_dependent_tests(shared: float) -> None:
    """Holm's correction does not need independent tests."""
    from scipy import stats

    trials, tests = 4000, 40
    rng = np.random.default_rng(0)
    common, individual = rng.standard_normal((trials, 1)), rng.standard_normal((trials, tests))
    z = np.sqrt(shared) * common + np.sqrt(1 - shared) * individual
    error_rate = np.mean([(holm(p) <= 0.05).any() for p in 2 * stats.norm.sf(np.abs(z))])
    se = np.sqrt(0.05 * 0.95 / trials)
    assert error_rate < 0.05 + 3 * se
