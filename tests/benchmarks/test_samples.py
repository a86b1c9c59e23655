"""Interleaved runs, summaries and the fit of the exponent, on made-up times."""

import numpy as np
import pytest

from benchmarks.samples import Summary, fit_growth, interleave, ratios
from benchmarks.section import by

SIZES = [10, 100, 1000, 10_000, 100_000]


@pytest.mark.parametrize(
    ("constant", "coefficient", "exponent"), [(2.0, 1e-3, 1.0), (0.5, 1e-6, 1.6), (0.0, 1e-2, 0.5)]
)
def test_the_fit_finds_start_up_and_exponent(constant, coefficient, exponent):
    fit = fit_growth(SIZES, [constant + coefficient * n**exponent for n in SIZES])
    # The times have no noise: least squares stops at a relative change of 1e-8.
    assert fit.exponent == pytest.approx(exponent, rel=1e-4)
    assert fit.constant == pytest.approx(constant, abs=1e-4 * coefficient * 1e5**exponent)
    assert fit.seconds(50_000) == pytest.approx(constant + coefficient * 5e4**exponent, rel=1e-4)


def test_the_fit_of_a_constant_time_does_not_fail():
    fit = fit_growth(SIZES, [1.0] * 5)
    assert [fit.seconds(n) for n in SIZES] == pytest.approx([1.0] * 5, rel=1e-3)


def test_three_sizes_are_too_few_for_three_parameters():
    assert fit_growth([10, 100, 1000], [1.0, 2.0, 3.0]) is None
    assert fit_growth([], []) is None


def test_competitors_run_in_turn_and_start_in_turn():
    calls = []
    actions = {name: lambda name=name: calls.append(name) or 1.0 for name in "abc"}
    results = interleave(actions, repeats=3, budget=np.inf)
    assert "".join(calls) == "abcbcacab"
    assert results == {name: [1.0] * 3 for name in "abc"}


def test_the_first_round_runs_whatever_the_budget():
    results = interleave({"a": lambda: 1.0}, repeats=5, budget=0.0)
    assert results == {"a": [1.0]}


def test_each_round_gives_a_ratio():
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_a_summary_shows_its_range_if_there_are_several_values():
    assert Summary.of([3.0, 1.0, 2.0]) == Summary(2.0, 3, 1.0, 3.0)
    assert Summary.of([3.0, 1.0, 2.0]).text("{:.1f}") == "2.0 (1.0 to 3.0)"
    assert Summary.of([3.0]).text() == "3.00"


def test_records_are_selected_by_value():
    assert by([{"a": 1, "b": 1}, {"a": 1, "b": 2}], a=1, b=2) == [{"a": 1, "b": 2}]
