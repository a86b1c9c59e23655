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
        cell_seconds, measured, ["a", "c"], [{"d": 1 / 3}], ["b"], elapsed=26.0
    )
    assert left == pytest.approx(26.0 * 7 / 13)


def test_before_the_first_result_the_stored_timings_are_used() -> None:
    cell_seconds, measured = estimate_cell_seconds({"a": result(1.0), "c": result(9.0)}, KINDS, {})
    workers = [{"b": 0.0}, {"d": 0.0}]
    left = estimate_seconds_left(cell_seconds, measured, [], workers, ["a", "c"], elapsed=5.0)
    assert left == pytest.approx(10.0)  # 20 s on two workers


def test_without_progress_and_timings_the_remaining_time_is_unknown() -> None:
    cell_seconds, measured = estimate_cell_seconds({}, KINDS, {})
    assert (
        estimate_seconds_left(cell_seconds, measured, [], [{"a": 0.0}], ["b"], elapsed=5.0) is None
    )
    assert estimate_seconds_left(
        cell_seconds, measured, [], [{"a": 0.5}], [], elapsed=5.0
    ) == pytest.approx(5.0)
    assert estimate_seconds_left(cell_seconds, measured, ["a"], [], [], elapsed=5.0) == 0.0


def test_the_last_cell_takes_its_own_time_although_other_workers_are_idle() -> None:
    cells = [f"cell{number}" for number in range(9)]
    kinds = dict.fromkeys(cells, "k")
    results = {cell: result(3600.0) for cell in cells[:8]}
    cell_seconds, measured = estimate_cell_seconds(results, kinds, {})
    *finished, last = cells
    # Eight workers have finished a cell each, and one of them has started the ninth.
    left = estimate_seconds_left(cell_seconds, measured, finished, [{last: 0.01}], [], 3636.0)
    assert left == pytest.approx(3564.0)
    left = estimate_seconds_left(cell_seconds, measured, finished, [], [last], 3600.0)
    assert left == pytest.approx(3600.0)
    # A new run of the sweep with results of an earlier run; three workers are idle.
    left = estimate_seconds_left(cell_seconds, measured, [], [{last: 0.01}], [], 36.0, parallel=4)
    assert left == pytest.approx(3564.0)


def test_the_cells_of_a_stack_share_their_time() -> None:
    cell_seconds, measured = estimate_cell_seconds({"a": result(10.0)}, KINDS, {})
    stack = dict.fromkeys("bcd", 0.5)
    left = estimate_seconds_left(cell_seconds, measured, ["a"], [stack], [], elapsed=6.0)
    assert left == pytest.approx(15.0)  # 5 s for each cell


def test_times_that_are_not_measured_are_scaled_by_the_elapsed_time() -> None:
    cell_seconds, measured = estimate_cell_seconds({}, KINDS, {"short": 1.0, "long": 1.0})
    assert not measured
    workers = [{"a": 0.5}, {"b": 0.25}]
    # Two workers have done 0.75 in 30 s, so a cell takes 80 s: three quarters of it remain.
    assert estimate_seconds_left(
        cell_seconds, measured, [], workers, [], elapsed=30.0
    ) == pytest.approx(60.0)
    assert estimate_seconds_left(
        cell_seconds, measured, [], workers, ["c"], elapsed=30.0
    ) == pytest.approx(90.0)  # 2.25 at 0.75 in 30 s
