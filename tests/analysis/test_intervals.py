"""Coverage over a sweep: forward and backward, wide and narrow, and never what was not tested."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from relu_chains import relu_log_sd
from simulated_sweep import simulated

from analysis import Results, intervals
from analysis.comparison import Comparison
from analysis.intervals import intervals as counted
from analysis.intervals import narrowest
from analysis.verdicts import verdicts
from fanin.statistics.coverage import Z


@pytest.fixture(autouse=True)
def widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated settings have no network to be built: all are 64 wide."""
    monkeypatch.setattr(intervals, "narrowest", lambda config: config.get("width", 64))


def _counted(sweep: list[Comparison]) -> pd.DataFrame:
    return counted(sweep, verdicts(sweep)).set_index(["direction", "width"])


def test_a_right_theory_covers_95_percent_both_ways() -> None:
    found = _counted(simulated(30, width=256))  # where the law's first order is all there is
    for direction in ("forward", "backward"):
        row = found.loc[direction, "all"]
        assert row.low < 0.95 < row.high
        assert not row.misses
        assert row.high - row.low < 0.03
        assert (row.draws, row.settings) == (30 * 2 * 4 * 64, 30)
        assert row.factor == pytest.approx(np.exp(Z * np.median(relu_log_sd(256, 4))))


def test_intervals_shrunk_by_two_miss() -> None:
    found = _counted(simulated(10, shrink=0.5))
    assert found.misses.all()
    assert found.coverage.between(0.6, 0.75).all()


def test_wide_and_narrow_networks_are_counted_apart() -> None:
    sweep = simulated(4) + simulated(2, width=16, seed=1)
    for n, comparison in enumerate(sweep):
        config = {"width": 64 if n < 4 else 16}
        setting = dataclasses.replace(comparison.setting, config=config)
        sweep[n] = dataclasses.replace(comparison, setting=setting)
    found = _counted(sweep)
    assert found.settings.to_dict() == {
        (direction, width): n
        for direction in ("forward", "backward")
        for width, n in (("all", 6), ("wide", 4), ("narrow", 2))
    }
    assert (found.factor.xs("narrow", level="width") > 2).all()


def test_overflowed_and_constant_layers_are_not_counted() -> None:
    first, second = simulated(2)
    broken = first.draws.value.mask(first.draws.layer == 4, np.inf)
    still = first.predicted.log_sd.mask(first.predicted.layer == 1, 0.0)
    broken = broken.mask(first.draws.layer == 1, 1.0)
    first = dataclasses.replace(
        first,
        draws=first.draws.assign(value=broken),
        predicted=first.predicted.assign(log_sd=still),
    )
    found = _counted([first, second])
    assert found.loc["forward", "all"].draws == 2 * 64 * (2 + 4)


def test_without_a_predicted_spread_there_is_nothing_to_count() -> None:
    (one,) = simulated(1)
    lower = one.predicted[one.predicted.rung == "he"]
    assert counted([one], verdicts([dataclasses.replace(one, predicted=lower)])).empty


def test_the_logits_are_no_narrow_layer(small: Results, comparisons: list[Comparison]) -> None:
    """`small` has convolutions of four channels before ten logits."""
    assert {narrowest(comparison.setting.config) for comparison in comparisons} == {4}
