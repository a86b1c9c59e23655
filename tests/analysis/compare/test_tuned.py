"""Tests of tuning: choice of the value, the best value, and the cost of another one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.compare.spec import METRICS
from analysis.compare.tuning import TunedStrategy, chosen_scores, mean_by_value, tune_by_setting

ACCURACY, LOSS = METRICS["test_accuracy"], METRICS["test_loss"]
NAN = float("nan")


def make_tuned(
    score: list[list[float]], loss: list[list[float]] | None = None, **more: object
) -> TunedStrategy:
    """Build results with seeds in rows, tuned values 0.1, 0.2, ... in columns; NaN is diverged."""
    x = np.array(score)
    values = {
        "values": np.arange(1, x.shape[1] + 1) / 10,
        "seeds": [str(k) for k in range(len(x))],
        "score": x,
        "loss": -x if loss is None else np.array(loss),
        "diverged": np.isnan(x),
        "done": np.ones(x.shape, bool),
        "metric": ACCURACY,
    }
    return TunedStrategy(**{**values, **more})


def test_each_seed_uses_its_lowest_training_loss() -> None:
    tuned = make_tuned([[0.5, 0.6, 0.7], [0.7, 0.6, 0.5]], loss=[[2.0, 1.0, 3.0], [2.0, 3.0, 1.0]])
    assert list(tuned.chosen_values()) == [(0, 1), (1, 2)]


def test_missing_and_diverged_runs_are_not_chosen() -> None:
    done = np.array([[True, False, True], [False, False, False]])
    loss = [[5.0, 1.0, NAN], [1.0, 1.0, 1.0]]
    tuned = make_tuned([[0.5, 0.9, 0.1], [0.9, 0.9, 0.9]], loss=loss, done=done)
    assert list(tuned.chosen_values()) == [(0, 0)]


def test_a_seed_that_always_diverged_has_a_score() -> None:
    tuned = make_tuned([[0.1, 0.1]], loss=[[NAN, NAN]], diverged=np.array([[True, True]]))
    assert list(tuned.chosen_values()) == [(0, 0)]


def test_cost_is_the_best_mean_minus_the_mean_of_means() -> None:
    tuned = make_tuned([[0.2, 0.8, 0.5], [0.4, 0.8, 0.3]])
    assert tuned.best() == 1
    assert tuned.cost() == pytest.approx(0.8 - (0.3 + 0.8 + 0.4) / 3)
    assert not tuned.at_edge()


def test_at_edge_unless_all_values_are_equal() -> None:
    assert make_tuned([[0.9, 0.8, 0.7]]).at_edge()
    assert make_tuned([[0.7, 0.8, 0.9]]).at_edge()
    assert not make_tuned([[0.1, 0.1, 0.1]]).at_edge()
    assert not make_tuned([[0.9]]).at_edge()


def test_the_best_value_of_a_loss_has_fewest_diverged_runs() -> None:
    tuned = make_tuned([[1.0, 2.0], [NAN, 2.0]], metric=LOSS)
    assert tuned.best() == 1
    assert tuned.mean().tolist() == [1.0, 2.0]
    all_diverged = make_tuned([[NAN, NAN], [NAN, NAN]], metric=LOSS)
    assert all_diverged.best() == 0
    assert np.isnan(all_diverged.cost())


def test_tables_contain_every_run() -> None:
    frame = pd.DataFrame(
        {
            "group": "g",
            "setting": "t",
            "strategy": ["a"] * 4 + ["b"] * 2,
            "seed": ["0", "0", "1", "1", "0", "1"],
            "tuned": [0.1, 0.2, 0.1, 0.2, 0.1, 0.1],
            "score": [0.5, 0.6, 0.7, 0.1, 0.3, 0.4],
            "loss": [1.0, 0.5, 0.5, NAN, 1.0, 1.0],
            "diverged": [False, False, False, True, False, False],
            "done": True,
        }
    )
    tuned = tune_by_setting(frame, ACCURACY)
    chosen = chosen_scores(tuned)
    assert chosen["score"].tolist() == [0.6, 0.7, 0.3, 0.4]
    assert chosen["tuned"].tolist() == [0.2, 0.1, 0.1, 0.1]
    values = mean_by_value(tuned)
    assert values["mean"].tolist() == pytest.approx([0.6, 0.35, 0.35])
    assert values["runs"].sum() == 6
    assert values["diverged"].sum() == 1


def test_the_cost_of_a_loss_is_over_comparable_values() -> None:
    # The mean at 0.1 is over a single run, because the other diverged.
    tuned = make_tuned([[1.0, 2.0, 4.0], [NAN, 2.0, 4.0]], metric=LOSS)
    assert tuned.cost() == pytest.approx(1.0)
    assert np.isnan(make_tuned([[1.0, 2.0], [NAN, 2.0]], metric=LOSS).cost())


def test_not_at_edge_if_an_inner_value_is_as_good() -> None:
    assert not make_tuned([[0.8, 0.8, 0.5]]).at_edge()
    done = np.array([[True, False, True]])
    assert not make_tuned([[0.1, NAN, 0.1]], diverged=np.zeros((1, 3), bool), done=done).at_edge()
    assert not make_tuned([[NAN, NAN, NAN]], metric=LOSS).at_edge()
