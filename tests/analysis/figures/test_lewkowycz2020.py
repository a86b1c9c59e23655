"""Tests of the onsets of the study `lewkowycz2020`."""

import math

import pandas as pd
import pytest

from analysis.figures.lewkowycz2020 import _range, _within, onsets

FALLS, RISES, DIVERGES = "falls at once", "rises first", "diverges"


def runs(*regimes: str) -> pd.DataFrame:
    """Return one network at learning rates 1, 2, 4, ... times 1 / lambda_0, in reverse order."""
    rows = [
        {"network": "relu", "loss": "mse", "gain": 1.0, "seed": 0, "x": 2.0**i, "regime": regime}
        for i, regime in enumerate(regimes)
    ]
    return pd.DataFrame(rows[::-1])


def test_an_onset_is_the_geometric_mean_of_two_rates():
    values = onsets(runs(FALLS, FALLS, RISES, DIVERGES), (RISES, DIVERGES))
    assert values == [pytest.approx(math.sqrt(2 * 4))]
    assert onsets(runs(FALLS, RISES, DIVERGES, RISES), (DIVERGES,)) == [
        pytest.approx(math.sqrt(2 * 4))
    ]


def test_an_onset_outside_the_grid_is_nan_or_infinite():
    (below,) = onsets(runs(RISES, DIVERGES), (RISES, DIVERGES))
    assert math.isnan(below)
    assert onsets(runs(FALLS, RISES), (DIVERGES,)) == [math.inf]


def test_onsets_below_the_grid_do_not_count():
    assert _within([2.0, math.nan], 1.6, 2.5) is True
    assert _within([2.0, math.inf], 1.6, 2.5) is False
    assert _within([math.nan], 1.6, 2.5) is None
    assert (
        _range([2.0, 2.4, math.nan])
        == "2 to 2.4 (2 networks; in 1 others already at the smallest tested rate)"
    )
    assert _range([math.inf, math.inf]) == "above the largest tested rate (2 networks)"
