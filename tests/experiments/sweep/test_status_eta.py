"""The expected end follows from what cells of each kind have taken."""

from __future__ import annotations

import pytest

from experiments.sweep.status.eta import seconds_left, typical_seconds
from experiments.sweep.status.snapshot import Result

KINDS = {"a": "short", "b": "short", "c": "long", "d": "long"}


def ended(seconds: float, outcome: str = "ok") -> Result:
    return Result(outcome, 1, fresh=True, order=0, seconds=seconds)


def test_a_cell_takes_the_median_of_its_kind_or_else_of_all() -> None:
    results = {"a": ended(1.0), "b": ended(3.0), "x": ended(50.0, "error")}
    weight, measured = typical_seconds(results, KINDS)
    assert measured
    assert [weight(cell) for cell in "abcd"] == [2.0, 2.0, 2.0, 2.0]
    weight, _ = typical_seconds(results | {"c": ended(10.0)}, KINDS)
    assert [weight(cell) for cell in "abcd"] == [2.0, 2.0, 10.0, 10.0]


def test_cells_of_which_only_a_journal_knows_have_no_timings() -> None:
    assert not typical_seconds({"a": ended(float("nan"))}, KINDS)[1]


def test_what_is_left_takes_as_long_as_what_was_done_by_the_work_in_it() -> None:
    weight, measured = typical_seconds({"a": ended(1.0), "c": ended(9.0)}, KINDS)
    # 10 s of work took 20 s; of d's 9 s a third is done, and of b's 1 s nothing.
    left = seconds_left(weight, measured, ["a", "c"], {"d": 1 / 3}, ["b"], elapsed=26.0)
    assert left == pytest.approx(26.0 * 7 / 13)


def test_before_anything_has_ended_stored_timings_are_shared_by_the_workers() -> None:
    weight, measured = typical_seconds({"a": ended(1.0), "c": ended(9.0)}, KINDS)
    left = seconds_left(weight, measured, [], {"b": 0.0, "d": 0.0}, [], elapsed=5.0)
    assert left == pytest.approx(5.0)


def test_with_nothing_to_go_by_nothing_is_expected() -> None:
    weight, measured = typical_seconds({}, KINDS)
    assert seconds_left(weight, measured, [], {"a": 0.0}, ["b"], elapsed=5.0) is None
    assert seconds_left(weight, measured, [], {"a": 0.5}, [], elapsed=5.0) == pytest.approx(5.0)
    assert seconds_left(weight, measured, ["a"], {}, [], elapsed=5.0) == 0.0
