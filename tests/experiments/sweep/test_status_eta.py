"""The expected end is computed from the measured times of each kind of cell."""

from __future__ import annotations

import pytest

from experiments.sweep.status.eta import estimate_cell_seconds, estimate_seconds_left
from experiments.sweep.status.snapshot import Result

KINDS = {"a": "short", "b": "short", "c": "long", "d": "long"}


def result(seconds: float, outcome: str = "ok") -> Result:
    return Result(outcome, 1, this_run=True, order=0, seconds=seconds)


def test_expected_seconds_are_the_median_of_the_kind_or_of_all() -> None:
    results = {"a": result(1.0), "b": result(3.0), "x": result(50.0, "error")}
    cell_seconds, measured = estimate_cell_seconds(results, KINDS, {})
    assert measured
    assert [cell_seconds(cell) for cell in "abcd"] == [2.0, 2.0, 2.0, 2.0]
    cell_seconds, _ = estimate_cell_seconds(results | {"c": result(10.0)}, KINDS, {})
    assert [cell_seconds(cell) for cell in "abcd"] == [2.0, 2.0, 10.0, 10.0]


def test_kinds_without_results_count_with_their_planned_time() -> None:
    planned = {"short": 2.0, "long": 40.0}
    cell_seconds, measured = estimate_cell_seconds({"a": result(1.0)}, KINDS, planned)
    assert measured
    assert [cell_seconds(cell) for cell in "abcd"] == [1.0, 1.0, 20.0, 20.0]
    cell_seconds, measured = estimate_cell_seconds({}, KINDS, planned)
    assert not measured
    assert [cell_seconds(cell) for cell in "abcd"] == [2.0, 2.0, 40.0, 40.0]


def test_results_from_a_journal_have_no_timings() -> None:
    assert not estimate_cell_seconds({"a": result(float("nan"))}, KINDS, {})[1]


def test_the_remaining_time_is_proportional_to_the_remaining_work() -> None:
    cell_seconds, measured = estimate_cell_seconds({"a": result(1.0), "c": result(9.0)}, KINDS, {})
    # Done: 10 s of a and c, and 3 s of d. Remaining: 6 s of d and 1 s of b.
    left = estimate_seconds_left(
        cell_seconds, measured, ["a", "c"], {"d": 1 / 3}, ["b"], elapsed=26.0
    )
    assert left == pytest.approx(26.0 * 7 / 13)


def test_before_the_first_result_the_stored_timings_are_used() -> None:
    cell_seconds, measured = estimate_cell_seconds({"a": result(1.0), "c": result(9.0)}, KINDS, {})
    left = estimate_seconds_left(cell_seconds, measured, [], {"b": 0.0, "d": 0.0}, [], elapsed=5.0)
    assert left == pytest.approx(5.0)


def test_without_progress_and_timings_the_remaining_time_is_unknown() -> None:
    cell_seconds, measured = estimate_cell_seconds({}, KINDS, {})
    assert estimate_seconds_left(cell_seconds, measured, [], {"a": 0.0}, ["b"], elapsed=5.0) is None
    assert estimate_seconds_left(
        cell_seconds, measured, [], {"a": 0.5}, [], elapsed=5.0
    ) == pytest.approx(5.0)
    assert estimate_seconds_left(cell_seconds, measured, ["a"], {}, [], elapsed=5.0) == 0.0
