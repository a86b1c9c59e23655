"""A real sweep's cells as trials: what is compared, tuned and grouped."""

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
    found = read_trials(seeded, ComparisonSpec(within=("activation",)))
    assert len(found) == 54
    assert list(dict.fromkeys(found["strategy"])) == INITS
    assert set(found["setting"]) == set(found["group"]) == {"relu", "tanh"}
    assert sorted(found["tuned"].unique()) == [0.1, 1.0, 1e30]
    assert found["seed"].nunique() == 3
    assert found["done"].all()


def test_a_run_that_diverged_scores_chance_or_has_no_loss(seeded: Results) -> None:
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
    found = read_trials(seeded, ComparisonSpec(tune=""))
    assert found["setting"].nunique() == 6
    assert found["tuned"].isna().all()


def test_any_axis_can_be_compared(seeded: Results) -> None:
    found = read_trials(seeded, ComparisonSpec(by="optim.lr", tune="", within=("init", "activation")))
    assert list(dict.fromkeys(found["strategy"])) == ["lr=0.1", "lr=1.0", "lr=1e+30"]
    assert found["group"].nunique() == 6


@pytest.mark.parametrize(
    ("spec", "said"),
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
def test_what_cannot_be_meant_is_said(seeded: Results, spec: ComparisonSpec, said: str) -> None:
    with pytest.raises(FaninError) as told:
        read_trials(seeded, spec)
    assert said in str(told.value)


def test_cells_that_have_not_ended_are_trials_that_are_not_done(seeded: Results) -> None:
    cells = seeded.cells.copy()
    cells["outcome"] = cells["outcome"].astype(object)
    cells.loc[cells.index[:5], "outcome"] = "error"
    partial = dataclasses.replace(seeded, cells=cells.iloc[:-4])
    found = read_trials(partial, ComparisonSpec())
    assert len(found) == 54
    assert (~found["done"]).sum() == 9
    assert found.loc[~found["done"], "score"].isna().all()
    with pytest.raises(FaninError, match="no trained cell has ended yet"):
        read_trials(dataclasses.replace(seeded, cells=cells.iloc[:0]), ComparisonSpec())


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Run a tiny sweep, or more cells of the same one."""
    return lambda *words: run_sweep(tmp_path, "tiny", *words, small=TINY)


def of(results: Results, column: str, spec: ComparisonSpec | None = None) -> list[str]:
    return list(dict.fromkeys(read_trials(results, spec or ComparisonSpec())[column]))


def test_a_number_is_one_value_however_it_was_typed(sweep: Sweep) -> None:
    sweep("init=he_normal", "init.gain=1,2")
    found = read_trials(sweep("init=he_normal", "init.gain=1.0,2.0", "seed=3,4"), ComparisonSpec())
    assert found.groupby("strategy")["seed"].nunique().to_dict() == {"gain=1": 5, "gain=2": 5}


def test_what_is_probed_makes_no_setting(sweep: Sweep) -> None:
    few = ("probe.images=2", "probe.size=2", "probe=default", "probe.draws=0,1")
    results = sweep("init=zeros,he_normal", *few)
    found = read_trials(results, ComparisonSpec())
    assert len(found) == 6
    assert found["setting"].nunique() == 1
    assert of(results, "group", ComparisonSpec(within=("probe",))) == ["draws=0", "draws=1"]


def test_data_without_classes_have_no_accuracy_and_that_is_said(sweep: Sweep) -> None:
    real = ("data=gaussian", "data.task=regression", "data.image_side=8", "loss=mse")
    small = [text for text in TINY if text != "data.side=8"]
    root = sweep("init=zeros,he_normal").folder.root.parent
    results = run_sweep(root, "real", "init=zeros,he_normal", *real, small=small)
    with pytest.raises(FaninError, match="these data have no classes; --metric test_loss"):
        read_trials(results, ComparisonSpec())
    assert not read_trials(results, ComparisonSpec(metric="test_loss"))["diverged"].any()


def test_an_option_that_nobody_gave_a_value_is_tuned_at_its_default(sweep: Sweep) -> None:
    sweep("init=zeros,he_normal", "optim=sgd", "optim.lr=0.1,0.2")
    results = sweep("init=zeros,he_normal", "optim=adam")
    found = read_trials(results, ComparisonSpec(within=("optim",)))
    assert set(found.loc[found["group"] == "adam", "tuned"]) == {0.001}
    assert of(results, "group", ComparisonSpec(within=("optim",))) == ["sgd", "adam"]


def test_the_narrower_axis_has_the_key(sweep: Sweep) -> None:
    results = sweep("init=he_normal,xavier_normal", "init.gain=1,2")
    gains = ComparisonSpec(by="init.gain", within=("init",))
    assert of(results, "strategy", gains) == ["gain=1", "gain=2"]
    assert of(results, "group", gains) == ["he_normal", "xavier_normal"]
    inits = ComparisonSpec(by="init", within=("init.gain",))
    assert of(results, "strategy", inits) == ["he_normal", "xavier_normal"]
    assert of(results, "group", inits) == ["gain=1", "gain=2"]


def test_an_option_without_the_key_is_named_so(sweep: Sweep) -> None:
    sweep("init=he_normal", "init.gain=1,2")
    results = sweep("init=zeros")
    spec = ComparisonSpec(by="init.gain", within=("init",))
    assert of(results, "strategy", spec) == ["gain=1", "gain=2", "without gain"]


def test_nothing_is_left_of_an_axis_that_is_tuned(sweep: Sweep) -> None:
    results = sweep("init=he_normal", "optim.lr=0.1,0.2")
    with pytest.raises(FaninError, match=r"optim: nothing but what is tuned .* --tune none"):
        read_trials(results, ComparisonSpec(by="optim"))


def test_losses_of_different_kinds_are_not_compared(sweep: Sweep) -> None:
    results = sweep("init=he_normal", "loss=cross_entropy,mse")
    assert of(results, "strategy", ComparisonSpec(by="loss")) == ["cross_entropy", "mse"]
    with pytest.raises(FaninError, match="--metric test_accuracy"):
        read_trials(results, ComparisonSpec(by="loss", metric="test_loss"))


def test_an_init_that_cannot_be_imported_here_is_compared(sweep: Sweep) -> None:
    results = sweep("init=he_normal,zeros")
    cells = results.folder.root / "cells.jsonl"
    cells.write_text(cells.read_text().replace("fanin.inits.HeNormal", "gone.Mine"))
    assert len(read_trials(results, ComparisonSpec())) == 6


def test_a_replicate_is_the_seeds_of_weights_and_batches_together(sweep: Sweep) -> None:
    results = sweep("init=he_normal,zeros", "seed=0", "seed_weights=0,1", "seed_data=0,1")
    assert read_trials(results, ComparisonSpec())["seed"].nunique() == 4


def test_a_cell_that_was_only_probed_is_no_trial_that_ended(sweep: Sweep) -> None:
    results = sweep("init=he_normal,zeros", "train.steps=0,1", "seed=0")
    found = read_trials(results, ComparisonSpec(within=("train",)))
    assert found.groupby("group")["done"].all().to_dict() == {"steps=0": False, "steps=1": True}


def test_of_cells_that_differ_in_their_probe_the_one_that_ended_counts(sweep: Sweep) -> None:
    few = ("probe.images=2", "probe.size=2", "probe=default", "probe.draws=0,1")
    results = sweep("init=zeros,he_normal", *few)
    first = results.cells["cell_id"].isin(read_trials(results, ComparisonSpec()).index)
    assert first.sum() == 6
    found = read_trials(dataclasses.replace(results, cells=results.cells[~first]), ComparisonSpec())
    assert len(found) == 6
    assert found["done"].all()


def line(number: int, asked: dict[str, Any], **options: str) -> dict[str, Any]:
    config: dict[str, Any] = {"optim": {"lr": 0.1, "momentum": 0.0}, "init": {"gain": 1.0}}
    for key, value in asked.items():
        group, _, name = key.partition(".")
        if name:
            config.setdefault(group, {})[name] = value
    return {"cell_id": f"c{number}", "assignment": asked, "choices": CHOICES | options, "config": config}


def test_only_what_varies_is_a_column() -> None:
    words = varying_values([line(1, {"optim.lr": 0.1}), line(2, {"optim.lr": 0.2})])
    assert words.to_dict("list") == {"optim.lr": [0.1, 0.2]}
    assert list(words.index) == ["c1", "c2"]


def test_a_key_that_some_left_at_its_default_has_the_default_there() -> None:
    words = varying_values([line(1, {}), line(2, {"optim.lr": 0.2})])
    assert words["optim.lr"].tolist() == [0.1, 0.2]


def test_a_key_is_an_options_own() -> None:
    normal = line(1, {"init.std": 0.01}, init="normal")
    other = line(2, {}, init="truncated_normal")
    other["config"]["init"]["std"] = 0.02  # its default, which nobody asked for
    words = varying_values([normal, other])
    assert words.to_dict("records") == [
        {"init": "normal", "init.std": 0.01},
        {"init": "truncated_normal", "init.std": ABSENT},
    ]


def test_where_data_lay_tells_nothing_apart() -> None:
    assert varying_values(
        [line(1, {"data.root": "/a"}), line(2, {"data.root": "/b"})]
    ).columns.empty


def test_lists_and_mappings_are_told_too() -> None:
    words = varying_values(
        [line(1, {"init.layers": {"fc1": 2}, "probe.images": [0, 1]}), line(2, {})]
    )
    assert words["init.layers.fc1"].tolist() == [2, ""]
    assert words["probe.images"].tolist() == ["[0, 1]", ""]
