"""A real sweep's cells as trials."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from analysis import Results
from analysis.compare.spec import ComparisonSpec
from analysis.compare.trials import trials
from fanin.errors import FaninError

INITS = ["he_normal", "normal std=0.01", "uniform a=0.0 b=1.0"]


def test_every_planned_cell_is_a_trial(seeded: Results) -> None:
    found = trials(seeded, ComparisonSpec(within=("activation",)))
    assert len(found) == 54
    assert list(dict.fromkeys(found["strategy"])) == INITS
    assert set(found["setting"]) == set(found["group"]) == {"relu", "tanh"}
    assert sorted(found["tuned"].unique()) == [0.1, 1.0, 1e30]
    assert found["seed"].nunique() == 3
    assert found["done"].all()


def test_a_run_that_diverged_scores_chance_or_has_no_loss(seeded: Results) -> None:
    accuracy, loss = (
        trials(seeded, ComparisonSpec()),
        trials(seeded, ComparisonSpec(metric="test_loss")),
    )
    outcome = seeded.cells.set_index("cell_id")["outcome"].reindex(accuracy.index)
    diverged = (outcome == "diverged").to_numpy()
    assert 0 < diverged.sum() < 54
    assert (accuracy["diverged"].to_numpy() == diverged).all()
    assert (accuracy.loc[diverged, "score"] == 0.1).all()
    assert loss.loc[diverged, "score"].isna().all()
    assert np.isfinite(loss.loc[~diverged, "score"]).all()
    assert accuracy.loc[diverged, "loss"].isna().all()


def test_without_tuning_each_value_is_a_setting(seeded: Results) -> None:
    found = trials(seeded, ComparisonSpec(tune=""))
    assert found["setting"].nunique() == 6
    assert found["tuned"].isna().all()


def test_any_axis_can_be_compared(seeded: Results) -> None:
    found = trials(seeded, ComparisonSpec(by="optim.lr", tune="", within=("init", "activation")))
    assert list(dict.fromkeys(found["strategy"])) == ["lr=0.1", "lr=1.0", "lr=1e+30"]
    assert found["group"].nunique() == 6


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (ComparisonSpec(by="innit"), "did you mean init or "),
        (ComparisonSpec(within=("aktivation",)), "did you mean activation?"),
        (
            ComparisonSpec(by="model"),
            "no axis of this sweep; valid: activation, init, init.a, init.b",
        ),
        (ComparisonSpec(within=("init",)), "init: an axis can be asked for in one place only"),
        (ComparisonSpec(by="optim.lr"), "optim.lr: it is also what is tuned; --tune none"),
        (
            ComparisonSpec(tune="optim.rl"),
            "--tune optim.rl: no axis of this sweep; did you mean ",
        ),
        (ComparisonSpec(tune="activation"), "only numbers can be tuned, and relu is none"),
        (ComparisonSpec(metric="accuracy"), "did you mean test_accuracy?"),
    ],
)
def test_what_cannot_be_meant_is_said(seeded: Results, question: ComparisonSpec, said: str) -> None:
    with pytest.raises(FaninError) as told:
        trials(seeded, question)
    assert said in str(told.value)


def test_cells_that_have_not_ended_are_trials_that_are_not_done(seeded: Results) -> None:
    cells = seeded.cells.copy()
    cells["outcome"] = cells["outcome"].astype(object)
    cells.loc[cells.index[:5], "outcome"] = "error"
    partial = dataclasses.replace(seeded, cells=cells.iloc[:-4])
    found = trials(partial, ComparisonSpec())
    assert len(found) == 54
    assert (~found["done"]).sum() == 9
    assert found.loc[~found["done"], "score"].isna().all()
    with pytest.raises(FaninError, match="no trained cell has ended yet"):
        trials(dataclasses.replace(seeded, cells=cells.iloc[:0]), ComparisonSpec())
