"""What becomes of suspects and remedies, from a small real sweep and from numbers made up."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_sweep import run_sweep

from analysis import Results
from analysis.figures.ablation import NOTHING, starts
from analysis.figures.large_outputs import _over_seeds, ended, outcomes, size, study, words_of
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
    """Two seeds of a healthy network, but for what is given."""
    usual = {
        "start": [1.0, 1.0],
        "largest": [5.0, 5.0],
        "end": [5.0, 5.0],
        "handed_out": [5.0, 5.0],
    }
    usual |= {"headed": [False] * 2, "diverged": [False] * 2, "accuracy": [0.95, 0.95]}
    return pd.DataFrame({**usual, "explained": [math.nan] * 2, **columns})


@pytest.mark.parametrize(
    ("columns", "huge", "healthy"),
    [
        ({}, False, True),
        ({"end": [5.0, 16.0], "largest": [5.0, 16.0]}, True, False),  # one seed is enough
        ({"largest": [5.0, 1e6]}, True, True),  # huge on the way, and back
        ({"accuracy": [0.95, 0.79]}, False, False),
        ({"diverged": [False, True], "end": [5.0, math.nan]}, False, False),
        ({"accuracy": [math.nan] * 2, "explained": [0.9, 0.6]}, False, True),
        ({"accuracy": [math.nan] * 2, "explained": [0.9, 0.4]}, False, False),
        ({"accuracy": [math.nan] * 2}, False, False),  # cells that failed
    ],
)
def test_it_is_healthy_in_every_seed_or_not(
    columns: dict[str, Any], huge: bool, healthy: bool
) -> None:
    told = _over_seeds(cells(**columns), bound=15.0, right=0.8, explained=0.5)
    assert (told["huge"], told["healthy"]) == (huge, healthy)


def test_no_cell_is_not_healthy() -> None:
    assert not _over_seeds(cells().iloc[:0], bound=15.0, right=0.8, explained=0.5)["healthy"]


def test_a_softmax_at_the_end_changes_no_logit(table: pd.DataFrame) -> None:
    bare, softmax = table.loc[("bare", NOTHING)], table.loc[("bare", "final activation")]
    assert bare["each"] == softmax["each"]
    # It is the network that hands out something else: probabilities.
    assert softmax["handed_out"] <= 0.1**0.5 * (1 + 1e-6)
    assert bare["handed_out"] != softmax["handed_out"]


def test_suspects_are_judged_beside_the_healthy_network(table: pd.DataFrame) -> None:
    assert table.loc[("bare", NOTHING)]["healthy"]
    assert table.loc[("rate", NOTHING)]["diverged"] == 2
    assert table.loc[("weights", NOTHING)]["huge"]
    assert table.loc[("weights", "final activation")]["huge"]
    assert table.loc[("weights", "He")]["kind"] == "undone"
    assert table.loc[("weights", "He")]["healthy"]


def test_what_a_remedy_costs_the_healthy_network_is_no_harm_of_the_suspects(
    results: Results,
) -> None:
    """Accuracy is held against that of the healthy network with the same remedy."""
    worse = results.cells.copy()
    worse.loc[worse["head"] == "softmax", "test_accuracy"] = 0.3
    told = outcomes(dataclasses.replace(results, cells=worse), CRITERION)
    told = told.set_index(["suspect", "remedy"])
    assert told.loc[("dtype", "final activation")]["healthy"]


def test_theory_tells_which_suspects_show_before_training(
    results: Results, table: pd.DataFrame
) -> None:
    first = starts(results, table.reset_index(), CRITERION).set_index("suspect")
    assert first["like"].to_dict() == {"bare": "", "weights": "", "rate": "bare", "dtype": "bare"}
    assert first["same"].to_dict() == {"bare": False, "weights": False, "rate": True, "dtype": True}
    assert (first["draws"] == 24).all()
    # Both inits draw the same normals and scale them, so in a ReLU network without biases every
    # draw's logits differ by one factor, which theory has to tell exactly.
    factor = first["values"]["weights"] / first["values"]["bare"]
    assert factor == pytest.approx(factor[0], rel=1e-4)
    foreseen = first["log_predicted"]["weights"] - first["log_predicted"]["bare"]
    assert math.log(factor[0]) == pytest.approx(foreseen, abs=1e-4)
    assert first["log_mean"]["bare"] == pytest.approx(np.log(first["values"]["bare"]).mean())
    off = (first["log_mean"] - first["log_predicted"]).abs() / first["log_se"]
    assert (off < 3.5).all()


def test_the_study_says_what_was_claimed_and_found(results: Results) -> None:
    found = {line.description: line for line in study(results, CRITERION).claim_results}
    assert found["weights, alone: makes the outputs huge"].holds
    assert found["weights: cured by"].measured == "He"
    assert found["weights: cured by"].holds
    other = {**CRITERION, "cures": {"weights": ["He", "final activation"]}, "huge": []}
    found = {line.description: line for line in study(results, other).claim_results}
    assert found["weights: cured by"].holds is False
    assert found["weights, alone: makes the outputs huge"].holds is False


def test_a_sweep_that_is_not_done_is_an_error(results: Results) -> None:
    kept = results.cells[results.cells["head"] == "none"]
    with pytest.raises(FaninError, match="not run"):
        study(dataclasses.replace(results, cells=kept), CRITERION)
    with pytest.raises(FaninError, match="no network was trained"):
        study(dataclasses.replace(results, cells=kept.head(0)), CRITERION)


def test_fields_say_how_it_ended() -> None:
    row = {"largest": 118.4, "headed": True, "handed_out": 0.31, "healthy": True, "seeds": 3}
    row |= {"diverged": 0, "accuracy": 0.934, "explained": math.nan, "huge": True}
    assert words_of(row) == "118 (0.31)\n93% ✓"
    assert ended(row) == "huge: up to 118; 93%"
    row |= {"diverged": 2, "healthy": False, "headed": False}
    assert words_of(row) == "≥118\n2/3 div., 93%"
    assert ended(row) == "huge: at least 118; 2/3 div., 93%"
    row |= {"diverged": 0, "accuracy": math.nan, "explained": -0.5}
    assert words_of(row) == "118\nR² -0.50"
    assert size(math.nan) == "-"
    assert size(999.6) == "1e3"
