"""Tests of reading a real sweep's cells as trials: strategies, tuned values and groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sweep import run_sweep

from analysis import Results
from analysis.compare.spec import ComparisonSpec
from analysis.compare.trials import ABSENT, read_trials, varying_values
from fanin.errors import FaninError

INITS = ["he_normal", "normal std=0.01", "uniform a=0.0 b=1.0"]
TINY = (
    *("data.side=8", "model.channels=1", "train.steps=1", "train.batch_size=8", "probe=none"),
    *("runner=inline", "seed=range(3)"),
)
Sweep = Callable[..., Results]
CHOICES = {"data": "digits", "model": "mlp", "init": "he_normal", "optim": "sgd"}


def test_every_planned_cell_is_a_trial(seeded: Results) -> None:
    trials = read_trials(seeded, ComparisonSpec(within=("activation",)))
    assert len(trials) == 54
    assert list(dict.fromkeys(trials["strategy"])) == INITS
    assert set(trials["setting"]) == set(trials["group"]) == {"relu", "tanh"}
    assert sorted(trials["tuned"].unique()) == [0.1, 1.0, 1e30]
    assert trials["seed"].nunique() == 3
    assert trials["done"].all()


def test_a_diverged_run_scores_chance_or_has_no_loss(seeded: Results) -> None:
    accuracy, loss = (
        read_trials(seeded, ComparisonSpec()),
        read_trials(seeded, ComparisonSpec(metric="test_loss")),
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
    trials = read_trials(seeded, ComparisonSpec(tune=""))
    assert trials["setting"].nunique() == 6
    assert trials["tuned"].isna().all()


def test_any_axis_can_be_compared(seeded: Results) -> None:
    trials = read_trials(
        seeded, ComparisonSpec(by="optim.lr", tune="", within=("init", "activation"))
    )
    assert list(dict.fromkeys(trials["strategy"])) == ["lr=0.1", "lr=1.0", "lr=1e+30"]
    assert trials["group"].nunique() == 6


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ComparisonSpec(by="innit"), "did you mean init or "),
        (ComparisonSpec(within=("aktivation",)), "did you mean activation?"),
        (
            ComparisonSpec(by="model"),
            "not an axis of this sweep; valid: activation, init, init.a, init.b",
        ),
        (ComparisonSpec(within=("init",)), "init: given twice in --by and --within"),
        (ComparisonSpec(by="optim.lr"), "optim.lr: both compared and tuned; use --tune none"),
        (
            ComparisonSpec(tune="optim.rl"),
            "--tune optim.rl: not an axis of this sweep; did you mean ",
        ),
        (ComparisonSpec(tune="activation"), "only numbers can be tuned, not relu"),
        (ComparisonSpec(metric="accuracy"), "did you mean test_accuracy?"),
    ],
)
def test_invalid_specifications_are_refused(
    seeded: Results, spec: ComparisonSpec, message: str
) -> None:
    with pytest.raises(FaninError) as error:
        read_trials(seeded, spec)
    assert message in str(error.value)


def test_missing_and_failed_cells_are_not_done(seeded: Results) -> None:
    cells = seeded.cells.copy()
    cells["outcome"] = cells["outcome"].astype(object)
    cells.loc[cells.index[:5], "outcome"] = "error"
    partial = dataclasses.replace(seeded, cells=cells.iloc[:-4])
    trials = read_trials(partial, ComparisonSpec())
    assert len(trials) == 54
    assert (~trials["done"]).sum() == 9
    assert trials.loc[~trials["done"], "score"].isna().all()
    with pytest.raises(FaninError, match=r"no cell with train\.steps above 0 has finished"):
        read_trials(dataclasses.replace(seeded, cells=cells.iloc[:0]), ComparisonSpec())


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Return a function that runs a tiny sweep, or adds cells to it."""
    return lambda *overrides: run_sweep(tmp_path, "tiny", *overrides, small=TINY)


def unique_values(results: Results, column: str, spec: ComparisonSpec | None = None) -> list[str]:
    return list(dict.fromkeys(read_trials(results, spec or ComparisonSpec())[column]))


def test_equal_numbers_are_one_value(sweep: Sweep) -> None:
    sweep("init=he_normal", "init.gain=1,2")
    trials = read_trials(sweep("init=he_normal", "init.gain=1.0,2.0", "seed=3,4"), ComparisonSpec())
    assert trials.groupby("strategy")["seed"].nunique().to_dict() == {"gain=1": 5, "gain=2": 5}


def test_the_probe_makes_no_setting(sweep: Sweep) -> None:
    few = ("probe.images=2", "probe.size=2", "probe=default", "probe.draws=0,1")
    results = sweep("init=zeros,he_normal", *few)
    trials = read_trials(results, ComparisonSpec())
    assert len(trials) == 6
    assert trials["setting"].nunique() == 1
    assert unique_values(results, "group", ComparisonSpec(within=("probe",))) == [
        "draws=0",
        "draws=1",
    ]


def test_accuracy_of_data_without_classes_is_refused(sweep: Sweep) -> None:
    real = ("data=gaussian", "data.task=regression", "data.image_side=8", "loss=mse")
    small = [text for text in TINY if text != "data.side=8"]
    root = sweep("init=zeros,he_normal").folder.root.parent
    results = run_sweep(root, "real", "init=zeros,he_normal", *real, small=small)
    with pytest.raises(FaninError, match="the data has no classes; use --metric test_loss"):
        read_trials(results, ComparisonSpec())
    assert not read_trials(results, ComparisonSpec(metric="test_loss"))["diverged"].any()


def test_an_option_without_the_tuned_key_uses_its_default(sweep: Sweep) -> None:
    sweep("init=zeros,he_normal", "optim=sgd", "optim.lr=0.1,0.2")
    results = sweep("init=zeros,he_normal", "optim=adam")
    trials = read_trials(results, ComparisonSpec(within=("optim",)))
    assert set(trials.loc[trials["group"] == "adam", "tuned"]) == {0.001}
    assert unique_values(results, "group", ComparisonSpec(within=("optim",))) == ["sgd", "adam"]


def test_the_more_specific_axis_takes_the_key(sweep: Sweep) -> None:
    results = sweep("init=he_normal,xavier_normal", "init.gain=1,2")
    gains = ComparisonSpec(by="init.gain", within=("init",))
    assert unique_values(results, "strategy", gains) == ["gain=1", "gain=2"]
    assert unique_values(results, "group", gains) == ["he_normal", "xavier_normal"]
    inits = ComparisonSpec(by="init", within=("init.gain",))
    assert unique_values(results, "strategy", inits) == ["he_normal", "xavier_normal"]
    assert unique_values(results, "group", inits) == ["gain=1", "gain=2"]


def test_an_option_without_the_key_is_labeled(sweep: Sweep) -> None:
    sweep("init=he_normal", "init.gain=1,2")
    results = sweep("init=zeros")
    spec = ComparisonSpec(by="init.gain", within=("init",))
    assert unique_values(results, "strategy", spec) == ["gain=1", "gain=2", "without gain"]


def test_an_axis_without_keys_to_compare_is_refused(sweep: Sweep) -> None:
    results = sweep("init=he_normal", "optim.lr=0.1,0.2")
    with pytest.raises(FaninError, match=r"optim: all its keys are tuned .* --tune none"):
        read_trials(results, ComparisonSpec(by="optim"))


def test_values_of_different_losses_are_not_compared(sweep: Sweep) -> None:
    results = sweep("init=he_normal", "loss=cross_entropy,mse")
    assert unique_values(results, "strategy", ComparisonSpec(by="loss")) == ["cross_entropy", "mse"]
    with pytest.raises(FaninError, match="--metric test_accuracy"):
        read_trials(results, ComparisonSpec(by="loss", metric="test_loss"))


def test_an_init_that_cannot_be_imported_is_compared(sweep: Sweep) -> None:
    results = sweep("init=he_normal,zeros")
    cells = results.folder.root / "cells.jsonl"
    cells.write_text(cells.read_text().replace("fanin.inits.HeNormal", "missing_module.Init"))
    assert len(read_trials(results, ComparisonSpec())) == 6


def test_a_replicate_is_defined_by_all_seeds(sweep: Sweep) -> None:
    results = sweep("init=he_normal,zeros", "seed=0", "seed_weights=0,1", "seed_data=0,1")
    assert read_trials(results, ComparisonSpec())["seed"].nunique() == 4


def test_a_cell_without_training_is_not_done(sweep: Sweep) -> None:
    results = sweep("init=he_normal,zeros", "train.steps=0,1", "seed=0")
    trials = read_trials(results, ComparisonSpec(within=("train",)))
    assert trials.groupby("group")["done"].all().to_dict() == {"steps=0": False, "steps=1": True}


def test_the_done_cell_counts_if_cells_differ_only_in_their_probe(sweep: Sweep) -> None:
    few = ("probe.images=2", "probe.size=2", "probe=default", "probe.draws=0,1")
    results = sweep("init=zeros,he_normal", *few)
    first = results.cells["cell_id"].isin(read_trials(results, ComparisonSpec()).index)
    assert first.sum() == 6
    trials = read_trials(
        dataclasses.replace(results, cells=results.cells[~first]), ComparisonSpec()
    )
    assert len(trials) == 6
    assert trials["done"].all()


def plan_record(number: int, assignment: dict[str, Any], **options: str) -> dict[str, Any]:
    config: dict[str, Any] = {"optim": {"lr": 0.1, "momentum": 0.0}, "init": {"gain": 1.0}}
    for key, value in assignment.items():
        group, _, name = key.partition(".")
        if name:
            config.setdefault(group, {})[name] = value
    return {
        "cell_id": f"c{number}",
        "assignment": assignment,
        "choices": CHOICES | options,
        "config": config,
    }


def test_only_varying_keys_are_columns() -> None:
    axis_values = varying_values(
        [plan_record(1, {"optim.lr": 0.1}), plan_record(2, {"optim.lr": 0.2})]
    )
    assert axis_values.to_dict("list") == {"optim.lr": [0.1, 0.2]}
    assert list(axis_values.index) == ["c1", "c2"]


def test_a_key_that_is_not_set_has_its_default() -> None:
    axis_values = varying_values([plan_record(1, {}), plan_record(2, {"optim.lr": 0.2})])
    assert axis_values["optim.lr"].tolist() == [0.1, 0.2]


def test_a_key_belongs_to_its_option() -> None:
    normal = plan_record(1, {"init.std": 0.01}, init="normal")
    other = plan_record(2, {}, init="truncated_normal")
    other["config"]["init"]["std"] = 0.02  # a default that is not set explicitly
    axis_values = varying_values([normal, other])
    assert axis_values.to_dict("records") == [
        {"init": "normal", "init.std": 0.01},
        {"init": "truncated_normal", "init.std": ABSENT},
    ]


def test_the_data_folder_is_not_an_axis() -> None:
    assert varying_values(
        [plan_record(1, {"data.root": "/a"}), plan_record(2, {"data.root": "/b"})]
    ).columns.empty


def test_lists_and_mappings_are_values() -> None:
    axis_values = varying_values(
        [plan_record(1, {"init.layers": {"fc1": 2}, "probe.images": [0, 1]}), plan_record(2, {})]
    )
    assert axis_values["init.layers.fc1"].tolist() == [2, ""]
    assert axis_values["probe.images"].tolist() == ["[0, 1]", ""]
