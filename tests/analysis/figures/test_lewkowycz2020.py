"""Tests of the onsets of the study `lewkowycz2020`."""

import math

import pandas as pd
import pytest

from analysis.figures.lewkowycz2020 import onset


def network(*rises: bool) -> pd.DataFrame:
    """Return one network at learning rates 1, 2, 4, ... times 1 / lambda_0, in reverse order."""
    rows = [{"x": 2.0**i, "rises": float(value)} for i, value in enumerate(rises)]
    return pd.DataFrame(rows[::-1])


def test_an_onset_is_the_geometric_mean_of_two_rates() -> None:
    assert onset(network(False, False, True, True), "rises") == pytest.approx(math.sqrt(2 * 4))
    assert onset(network(False, True, False, True), "rises") == pytest.approx(math.sqrt(1 * 2))


def test_an_onset_outside_the_grid_is_not_defined() -> None:
    assert math.isnan(onset(network(True, True), "rises"))
    assert math.isnan(onset(network(False, False), "rises"))
