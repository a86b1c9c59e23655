"""Paired differences."""

from __future__ import annotations

import numpy as np
import pytest
from test_interval import DEXTRO, LAEVO

from fanin.statistics.paired import paired


def test_students_sleep_data() -> None:
    # Student 1908; t = 4.0621 on 9 degrees of freedom, p = 0.002833, mean 1.58, as every package's
    # manual prints it.
    found = paired(LAEVO, DEXTRO)
    assert found.difference.value == pytest.approx(1.58)
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert found.pairs == 10


def test_only_seeds_that_both_have_make_pairs() -> None:
    a, b = np.array([1.0, 2.0, np.nan, 4.0]), np.array([0.0, np.nan, 2.0, 2.0])
    found = paired(a, b)
    assert (found.pairs, found.difference.value) == (2, 1.5)
    assert np.isnan(paired(a[:2], b[:2]).p)


def test_differences_without_spread_are_no_proof() -> None:
    a = np.array([0.912, 0.905, 0.921])
    assert paired(a + 0.01, a).p == 0.25  # three signs of eight
    assert paired(a, a).p == 1.0
    assert paired(a, a).difference.value == 0.0
