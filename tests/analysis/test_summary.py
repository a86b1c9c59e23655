"""The closing sentences say what the verdicts come to."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from simulated_sweep import simulated

from analysis import intervals
from analysis.comparison import Comparison
from analysis.intervals import intervals as counted
from analysis.summary import summary
from analysis.verdicts import verdicts


@pytest.fixture(autouse=True)
def widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated settings have no network to be built."""
    monkeypatch.setattr(intervals, "narrowest", lambda config: 64)


def _told(sweep: list[Comparison]) -> str:
    rows = verdicts(sweep)
    return "\n".join(summary(sweep, rows, counted(sweep, rows), margin=1.1, level=0.05))


def test_settings_are_explained_disagree_or_are_apart() -> None:
    sweep = simulated(6, off={(1, "preact_m2", 2): 3.0})
    unpredicted = dataclasses.replace(sweep[5], predicted=pd.DataFrame(), unpredicted="why")
    zeros = dataclasses.replace(
        sweep[4],
        draws=sweep[4].draws.assign(value=0.0),
        predicted=sweep[4].predicted.assign(value=0.0, log_sd=np.nan),
    )
    told = _told([*sweep[:4], zeros, unpredicted])
    assert "Of 6 settings, theory explains 3 " in told
    assert "and disagrees with 1; apart: 1 without a prediction, 1 with nothing to test" in told
    assert "16 are apart (16 zero)" in told


def test_what_disagrees_is_named_with_the_layer_where_it_is_surest() -> None:
    told = _told(simulated(4, off={(2, "preact_m2", 3): 2.0}))
    (line,) = (line for line in told.splitlines() if line.startswith("Disagrees"))
    assert line.startswith("Disagrees: net 2: 4 of 16 layers, surest preact_m2 of layer 3 (fc3")
    ratio, se = (float(x) for x in re.findall(r"([+-][\d.]+) \(se ([\d.]+)\)", line)[0])
    assert ratio == pytest.approx(np.log(2), abs=4 * se)


def test_coverage_is_told_with_its_interval_and_the_width_of_the_intervals() -> None:
    told = _told(simulated(10))
    (line,) = (line for line in told.splitlines() if line.startswith("95 % intervals, backward:"))
    share, low, high = (float(x) for x in re.findall(r"([\d.]+)%", line))
    assert low < share < high
    assert "5,120 draws of 10 settings" in line
    # The median of four layers: exp(1.96 (sqrt(7/64) + sqrt(12/64)) / 2).
    assert "a factor of 2.11" in line


def test_a_spread_that_is_off_is_told() -> None:
    right = _told(simulated(5))
    assert "it differs from 1 beyond doubt in 0 of 80 layers" in right
    wrong = _told(simulated(5, shrink=0.5))
    found = re.search(r"median ([\d.]+).*in (\d+) of 80 layers", wrong)
    assert found is not None
    assert float(found[1]) == pytest.approx(2, abs=0.1)
    assert int(found[2]) > 75


def test_a_sweep_of_lsuv_alone_has_nothing_to_hold() -> None:
    (one,) = simulated(1)
    told = _told([dataclasses.replace(one, predicted=pd.DataFrame(), unpredicted="why")])
    assert "theory explains 0" in told
    assert "apart: 1 without a prediction" in told
