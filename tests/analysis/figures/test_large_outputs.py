"""Tests of the study `large_outputs`, on a small real sweep and on made-up numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_sweep import run_sweep

from analysis import Results
from analysis.figures.ablation import NOTHING, initial_outputs
from analysis.figures.large_outputs import (
    _over_seeds,
    cell_text,
    describe_outcome,
    outcomes,
    size,
    study,
)
from fanin.errors import FaninError

SWEEP = """
question: How large?
fixed:
  {model: plain, model.depth: 3, model.width: 4, train.steps: 12, probe.steps: [1, 12],
   probe.draws: 12, probe.size: 3, probe.images: []}
grid:
  - suspect: [{}, {init: normal, init.std: 3.0}, {optim.lr: 1.0e+30}, {train.dtype: float64}]
    remedy: [{}, {head: softmax}]
    seed: range(2)
"""
CRITERION: dict[str, Any] = {
    **{"factor": 3.0, "accuracy": 0.1, "explained": 0.5, "se": 3.5},
    "healthy": {
        **{"init": "he_normal", "optim.lr": 0.1, "head": "none", "train.dtype": "float32"},
    },
    "suspects": {
        "bare": {},
        "weights": {"init": "normal", "init.std": 3.0},
        "rate": {"optim.lr": 1e30},
        "dtype": {"train.dtype": "float64"},
    },
    "remedies": {NOTHING: {}, "final activation": {"head": "softmax"}, "He": {"init": "he_normal"}},
    "huge": ["weights", "rate"],
    "cures": {"weights": ["He"], "rate": []},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("large")
    (root / "conf" / "sweep").mkdir(parents=True)
    (root / "conf" / "sweep" / "suspects.yaml").write_text(SWEEP)
    small = ("data.side=7", "data.n_train=200", "data.n_test=100", "runner=inline")
    return run_sweep(root, "suspects", "sweep=suspects", config_dir=root / "conf", small=small)


@pytest.fixture(scope="module")
def table(results: Results) -> pd.DataFrame:
    return outcomes(results, CRITERION).set_index(["suspect", "remedy"])


def cells(**columns: list[Any]) -> pd.DataFrame:
    """Return two seeds of a healthy network with some columns replaced."""
    defaults = {
        "start": [1.0, 1.0],
        "largest": [5.0, 5.0],
        "end": [5.0, 5.0],
        "output": [5.0, 5.0],
    }
    defaults |= {"has_head": [False] * 2, "diverged": [False] * 2, "accuracy": [0.95, 0.95]}
    return pd.DataFrame({**defaults, "explained": [math.nan] * 2, **columns})


@pytest.mark.parametrize(
    ("columns", "huge", "healthy"),
    [
        ({}, False, True),
        ({"end": [5.0, 16.0], "largest": [5.0, 16.0]}, True, False),  # one huge seed is enough
        ({"largest": [5.0, 1e6]}, True, True),  # huge in training, but not at the end
        ({"accuracy": [0.95, 0.79]}, False, False),
        ({"diverged": [False, True], "end": [5.0, math.nan]}, False, False),
        ({"accuracy": [math.nan] * 2, "explained": [0.9, 0.6]}, False, True),
        ({"accuracy": [math.nan] * 2, "explained": [0.9, 0.4]}, False, False),
        ({"accuracy": [math.nan] * 2}, False, False),  # cells that failed
    ],
)
def test_healthy_requires_every_seed_and_huge_any_seed(
    columns: dict[str, Any], huge: bool, healthy: bool
) -> None:
    row = _over_seeds(cells(**columns), bound=15.0, min_accuracy=0.8, min_explained=0.5)
    assert (row["huge"], row["healthy"]) == (huge, healthy)


def test_no_cells_are_not_healthy() -> None:
    no_cells = cells().iloc[:0]
    row = _over_seeds(no_cells, bound=15.0, min_accuracy=0.8, min_explained=0.5)
    assert not row["healthy"]


def test_a_final_softmax_does_not_change_the_logits(table: pd.DataFrame) -> None:
    bare, softmax = table.loc[("bare", NOTHING)], table.loc[("bare", "final activation")]
    assert bare["per_seed"] == softmax["per_seed"]
    # Only the network's output changes, to probabilities.
    assert softmax["output"] <= 0.1**0.5 * (1 + 1e-6)
    assert bare["output"] != softmax["output"]


def test_suspects_are_compared_with_the_healthy_network(table: pd.DataFrame) -> None:
    assert table.loc[("bare", NOTHING)]["healthy"]
    assert table.loc[("rate", NOTHING)]["diverged"] == 2
    assert table.loc[("weights", NOTHING)]["huge"]
    assert table.loc[("weights", "final activation")]["huge"]
    assert table.loc[("weights", "He")]["kind"] == "reverted"
    assert table.loc[("weights", "He")]["healthy"]


def test_accuracy_is_compared_at_the_same_remedy(results: Results) -> None:
    worse = results.cells.copy()
    worse.loc[worse["head"] == "softmax", "test_accuracy"] = 0.3
    rows = outcomes(dataclasses.replace(results, cells=worse), CRITERION)
    rows = rows.set_index(["suspect", "remedy"])
    assert rows.loc[("dtype", "final activation")]["healthy"]


def test_theory_predicts_which_suspects_change_the_first_outputs(
    results: Results, table: pd.DataFrame
) -> None:
    first = initial_outputs(results, table.reset_index(), CRITERION).set_index("suspect")
    assert first["shares_prediction_of"].to_dict() == {
        "bare": "",
        "weights": "",
        "rate": "bare",
        "dtype": "bare",
    }
    assert first["same"].to_dict() == {"bare": False, "weights": False, "rate": True, "dtype": True}
    assert (first["draws"] == 24).all()
    # Both inits scale the same normal draws, so in a ReLU network without biases the logits of
    # every draw differ by one factor, which theory must predict exactly.
    factor = first["values"]["weights"] / first["values"]["bare"]
    assert factor == pytest.approx(factor[0], rel=1e-4)
    predicted = first["log_predicted"]["weights"] - first["log_predicted"]["bare"]
    assert math.log(factor[0]) == pytest.approx(predicted, abs=1e-4)
    assert first["log_mean"]["bare"] == pytest.approx(np.log(first["values"]["bare"]).mean())
    deviation = (first["log_mean"] - first["log_predicted"]).abs() / first["log_se"]
    assert (deviation < 3.5).all()


def test_a_claim_holds_only_if_it_was_measured(results: Results) -> None:
    rows = {row.description: row for row in study(results, CRITERION).claim_results}
    assert rows["'weights' without remedy: size of the outputs"].holds
    assert rows["'weights': remedies that cure it"].measured == "He"
    assert rows["'weights': remedies that cure it"].holds
    other = {**CRITERION, "cures": {"weights": ["He", "final activation"]}, "huge": []}
    rows = {row.description: row for row in study(results, other).claim_results}
    assert rows["'weights': remedies that cure it"].holds is False
    assert rows["'weights' without remedy: size of the outputs"].holds is False


def test_an_unfinished_sweep_is_an_error(results: Results) -> None:
    without_head = results.cells[results.cells["head"] == "none"]
    with pytest.raises(FaninError, match="are missing"):
        study(dataclasses.replace(results, cells=without_head), CRITERION)
    with pytest.raises(FaninError, match="no network has been trained"):
        study(dataclasses.replace(results, cells=without_head.head(0)), CRITERION)


def test_text_of_a_box_and_of_the_table() -> None:
    row = {"largest": 118.4, "has_head": True, "output": 0.31, "healthy": True, "seeds": 3}
    row |= {"diverged": 0, "accuracy": 0.934, "explained": math.nan, "huge": True}
    assert cell_text(row) == "118 (0.31)\n93% ✓"
    assert describe_outcome(row) == "huge: up to 118; accuracy 93%"
    row |= {"diverged": 2, "healthy": False, "has_head": False}
    assert cell_text(row) == "≥118\n2/3 div., 93%"
    assert describe_outcome(row) == "huge: at least 118; 2 of 3 seeds diverged, accuracy 93%"
    row |= {"diverged": 0, "accuracy": math.nan, "explained": -0.5}
    assert cell_text(row) == "118\nR² -0.50"
    assert size(math.nan) == "-"
    assert size(999.6) == "1e3"
